"""llama.cpp's own quantizer through cyllama, without an importance matrix.

Setting: {"recipe": "Q4_K_M"}. cyllama 0.2.18 gives no way to set the importance matrix.
"""

from __future__ import annotations

import gguf
import torch
from gguf.quants import dequantize
from kit import arguments, finish

from mixq.export.gguf.file import tensor_bytes
from mixq.export.gguf.quantize import write_recipe

kit, setting, output = arguments()
model = kit.model()
file = output / "model.gguf"
write_recipe(model, kit.model_folder, file, setting["recipe"])
heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
names = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
weights, counts = {}, {}
for tensor in gguf.GGUFReader(file).tensors:
    _, *layer = tensor.name.removesuffix(".weight").split(".")
    if tensor.name == "token_embd.weight":
        name = "model.embed_tokens.weight"
    elif len(layer) == 2 and layer[1] in names:
        name = f"model.layers.{layer[0]}.{names[layer[1]]}.weight"
    else:
        continue
    values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
    count = heads.get(layer[-1]) if layer else None
    if count is not None:  # llama.cpp's order of rotated rows, see examples/models/smollm2.py
        rows, columns = values.shape
        pairs = values.view(count, rows // count // 2, 2, columns)
        values = pairs.transpose(1, 2).reshape(rows, columns)
    weights[name] = values
    counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
note = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
finish(output, "cyllama", tensor_bytes(file), weights, note)
