"""What TensorRT and Qualcomm's QNN document that they take, beside plain ONNX.

Nothing here was tried on their hardware. Sources:

- TensorRT: "Working with Quantized Types" and "Explicit Quantization" of NVIDIA's documentation
  (10.11 and 11.0): symmetric quantization only, signed INT8 and signed INT4; INT4 for weights
  alone, by channel or by blocks; INT8 by tensor or channel.
- QNN: ONNX Runtime's documentation of its QNN execution provider, and `quantize_static` with
  `get_qnn_qdq_config` of onnxruntime 1.31: every tensor between two operators is quantized, INT8
  and INT4 weights by tensor or channel, 4-bit weights without zero points; no blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

from mixq.errors import ExportError
from mixq.export.source import Unit

Target: TypeAlias = Literal["onnx", "tensorrt", "qnn"]
FORMATS: Final = (
    "32 and 16 bits, and 8 or 4 bits with the symmetric, reduced, signed or zero-point grid"
)


def check(units: Mapping[str, Unit], target: Target) -> None:
    """Refuse a plan that the target cannot read.

    Raises:
        ExportError: naming the first unit that it cannot read, why, and what would do.
    """
    for name, unit in units.items():
        fmt = unit.packed.format
        if fmt.bits == 2 or fmt.grid == "affine":
            raise ExportError(
                f"layer {name!r:.100} is planned as {fmt.name}, but a QDQ file takes {FORMATS}; "
                "search with --bits 32,8,4 --grids symmetric,zero-point"
            )
        if fmt.activation == "dynamic":
            raise ExportError(
                f"layer {name!r:.100} is planned as {fmt.name}, but a QDQ file holds ranges of "
                "activations; search with --activations static"
            )
    if target != "onnx":
        reason = next(refusals(units, target), None)
        if reason is not None:
            raise ExportError(f"{reason}; export with target=onnx, or search with other formats")


def refusals(units: Mapping[str, Unit], target: Target) -> Iterator[str]:
    """Why a target would refuse, a sentence for each unit that it would refuse."""
    for name, unit in units.items():
        fmt, shown = (
            unit.packed.format,
            f"layer {name!r:.100} is planned as {unit.packed.format.name}",
        )
        grouped = fmt.groups_per_row(unit.packed.columns) > 1 if not fmt.is_float else False
        if target == "tensorrt":
            if unit.zeros is not None if not fmt.is_float else False:
                yield f"{shown}, but TensorRT takes no zero points"
            elif grouped and (fmt.bits == 8 or len(unit.packed.shape) != 2):
                yield f"{shown}, but TensorRT takes blocks in 4-bit matrix products only"
            elif fmt.bits == 4 and fmt.activation != "none":
                yield f"{shown}, but TensorRT takes 4 bits with floating-point activations only"
        elif target == "qnn":
            if grouped:
                yield f"{shown}, but QNN takes one scale per tensor or channel"
            elif fmt.bits == 4 and unit.zeros is not None:
                yield f"{shown}, but QNN takes 4-bit weights without zero points"
