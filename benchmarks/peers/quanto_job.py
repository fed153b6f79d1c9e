"""optimum-quanto: one width for every layer (it has no search), weights alone.

Setting: {"weights": "qint4", "optimizer": "hqq"}; the optimizer may be left out.
"""

from __future__ import annotations

import torch
from kit import arguments, finish
from optimum import quanto

kit, setting, output = arguments()
model = kit.model()
optimizer = quanto.HqqOptimizer() if setting.get("optimizer") == "hqq" else None
quanto.quantize(model, weights=getattr(quanto, setting["weights"]), optimizer=optimizer)
quanto.freeze(model)
weights: dict[str, torch.Tensor] = {}
stored = 0
for name, tensor in (*model.named_parameters(), *model.named_buffers()):
    if isinstance(tensor, quanto.QTensor):
        weights[name] = tensor.dequantize()
        inner: dict[str, torch.Tensor] = {}
        tensor.save_to_state_dict(inner, "", False)
        stored += sum(part.numel() * part.element_size() for part in inner.values())
    elif not name.endswith(("input_scale", "output_scale")):  # of activations, which stay float
        stored += tensor.numel() * tensor.element_size()
finish(output, "optimum-quanto", stored, weights, f"{len(weights)} weights quantized")
