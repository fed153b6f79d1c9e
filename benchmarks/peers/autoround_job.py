"""AutoRound (Intel): AutoScheme's widths by its delta loss, then its rounding.

Setting: {"avg_bits": 5, "options": "W4A16,W8A16", "iters": 0}; with "scheme": "W4A16" in place of
the first two, one width for every layer. Embedding and head stay in 16 bits, which is what its
exporters store; scales are 16 bits, and zero points as wide as the codes.
"""

from __future__ import annotations

import json

import torch
from auto_round import AutoRound, AutoScheme
from kit import arguments, finish
from torch import nn
from transformers import AutoTokenizer

kit, setting, output = arguments()
model = kit.model()
original = {name: p.detach().clone() for name, p in model.named_parameters()}
tokenizer = AutoTokenizer.from_pretrained(kit.model_folder)
texts = output / "calibration.jsonl"
ids = torch.cat([batch["input_ids"] for batch in kit.batches()])
texts.write_text(
    "".join(json.dumps({"text": text}) + "\n" for text in tokenizer.batch_decode(ids)),
    encoding="utf-8",
)
scheme = setting.get("scheme")
if scheme is None:
    scheme = AutoScheme(
        avg_bits=setting["avg_bits"], options=setting["options"], nsamples=16, batch_size=2,
        seqlen=ids.shape[1] - 8, dataset=str(texts),
    )  # fmt: skip
tool = AutoRound(
    model, tokenizer=tokenizer, scheme=scheme, iters=setting["iters"], nsamples=len(ids),
    seqlen=ids.shape[1] - 8, batch_size=2, dataset=str(texts), device_map="cpu",
    enable_torch_compile=False,
)  # fmt: skip
quantized, config = tool.quantize()
weights, counts, stored, seen = {}, {}, 0, set()
for path, module in quantized.named_modules():
    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is None or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        name = f"{path}.{key}"
        chosen = config.get(path, {}) if key == "weight" and isinstance(module, nn.Linear) else {}
        bits = chosen.get("bits", 16)
        if name in original:
            weights[name] = tensor
        if bits and bits < 16:
            group = chosen["group_size"] if chosen["group_size"] > 0 else tensor.shape[1]
            groups = tensor.shape[0] * -(-tensor.shape[1] // group)
            zero_bits = 0 if chosen["sym"] else bits
            stored += (tensor.numel() * bits + groups * (16 + zero_bits)) // 8
            counts[bits] = counts.get(bits, 0) + 1
        elif name in original:
            stored += tensor.numel() * 2
            weights[name] = tensor.bfloat16()
note = ", ".join(f"{count} at {bits} bits" for bits, count in sorted(counts.items()))
if "avg_bits" in setting:
    note += f"; asked for {setting['avg_bits']:g} bits in the layers that it quantizes"
finish(output, "auto-round", stored, weights, note)
