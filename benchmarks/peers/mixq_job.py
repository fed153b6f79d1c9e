"""mixq: the plan of least output error within so many bytes, with its defaults.

Setting: {"max_bytes": N, ...}, the rest goes to `mixq.search`.
"""

from __future__ import annotations

import json
from pathlib import Path

from kit import REPORT, arguments

import mixq
from mixq.artifact import tensor_bytes

kit, setting, output = arguments()
model = kit.model()
batches = [batch.get("input", batch) for batch in kit.batches()]
max_bytes = setting.pop("max_bytes")
folder = setting.pop("folder", None)
palette = setting.pop("palette", None)
if palette is not None:
    from mixq.search.palette import Palette

    setting["palette"] = Palette(**palette)
result = mixq.search(
    model, batches, hardware="intel_cpu", max_size_mb=max_bytes / 1e6, name=kit.network,
    folder=None if folder is None else Path(folder), **setting,
)  # fmt: skip
artifact = output / "model.mixq.safetensors"
mixq.save(result.plan.apply(model), artifact)
assert tensor_bytes(artifact) == result.plan.predicted.weight_bytes <= max_bytes
result.plan.save(output / "plan.json")
gap = result.plan.certificate
report = {
    "version": mixq.__version__,
    "weight_bytes": tensor_bytes(artifact),
    "note": "" if gap is None else f"gap {gap.gap:.2g}",
}
(output / REPORT).write_text(json.dumps(report), encoding="utf-8")
