"""NNCF (OpenVINO): `compress_weights` of a torch model, 4 and 8 bits mixed by its ratio.

Setting: {"ratio": 0.8, "metric": "HESSIAN_INPUT_ACTIVATION", "group_size": 64, "mode":
"INT4_ASYM", "all_layers": true, "scale_estimation": true}; ratio and metric may be left out.
The bytes are those of the compressed module's own parameters and buffers.
"""

from __future__ import annotations

import nncf
import torch
from kit import arguments, finish, stored_bytes

kit, setting, output = arguments()
model = kit.model()
samples = [next(iter(s.values())) if "input" in s else s for s in kit.samples()]
names = [name for name, _ in model.named_parameters()]
options = dict(setting)
mode = nncf.CompressWeightsMode[options.pop("mode")]
metric = options.pop("metric", None)
if metric is not None:
    options["sensitivity_metric"] = nncf.SensitivityMetric[metric]
if options:  # 8 bits take no data
    options |= {"dataset": nncf.Dataset(samples), "subset_size": len(samples)}
compressed = nncf.compress_weights(model, mode=mode, **options)
weights = {}
parameters = dict(compressed.named_parameters(remove_duplicate=False))
with torch.no_grad():
    for path, module in compressed.named_modules():
        if not type(module).__name__.endswith("WeightsDecompressor"):
            continue
        # __nncf_hooks.post_hooks.encoder:layer:0:output:dense:weight__0.0
        name = path.split("post_hooks.")[1].rsplit("__", 1)[0].replace(":", ".")
        weights[name] = module(parameters[name])
assert set(weights) <= set(names), sorted(set(weights) - set(names))[:3]
note = f"{len(weights)} of {sum(p.dim() > 1 for p in parameters.values())} weights compressed"
finish(output, "nncf", stored_bytes(compressed), weights, note)
