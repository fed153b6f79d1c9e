"""mlx-lm: `dynamic_quant`, two widths by the gradient of the divergence, on MLX's CPU backend.

Setting: {"target_bpw": 5.0, "low": 4, "high": 8, "group_size": 64}; without a target every layer
has the low width. The functions are those that `mlx_lm.dynamic_quant` calls, with this kit's
calibration in place of the one that it downloads.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import torch
from kit import arguments, finish
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.quant.dynamic_quant import estimate_sensitivities, estimate_threshold
from mlx_lm.utils import load

kit, setting, output = arguments()
low, high, group_size = setting["low"], setting["high"], setting["group_size"]
target = setting.get("target_bpw")
mx.random.seed(123)
model, _ = load(str(kit.model_folder))
data = mx.array(torch.cat([batch["input_ids"] for batch in kit.batches()]).numpy())
chosen: dict[str, float] = {}
threshold = 0.0
if target is not None:
    grids = (low, group_size, high, group_size)
    chosen = dict(estimate_sensitivities(model, data, *grids, batch_size=2))
    threshold = estimate_threshold(model, chosen, target, *grids)


def widths(path: str, module: nn.Module) -> object:
    """As in mlx-lm: the high width above the threshold, no quantization where none is known."""
    if not hasattr(module, "to_quantized"):
        return False
    if target is not None and chosen[path] > threshold:
        return {"bits": high, "group_size": group_size}
    return True


nn.quantize(model, group_size=group_size, bits=low, class_predicate=widths)
weights, counts = {}, {low: 0, high: 0}
for path, module in tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module):
    if hasattr(module, "scales"):
        counts[module.bits] += 1
        values = mx.dequantize(
            module.weight, module.scales, module.biases, module.group_size, module.bits
        )
        weights[f"{path}.weight"] = torch.from_numpy(np.array(values.astype(mx.float32)))
stored = sum(tensor.nbytes for _, tensor in tree_flatten(model.parameters()))
note = ", ".join(f"{count} at {bits} bits" for bits, count in sorted(counts.items()))
if target is not None:
    numbers = sum(tensor.numel() for tensor in kit.model().parameters())
    note += f"; asked for {target:g} bits per weight, {8 * stored / numbers:.3f} stored"
finish(output, "mlx-lm", stored, weights, note)
