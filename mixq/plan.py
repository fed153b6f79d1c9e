"""Plan: which format each weight unit gets, with predictions, measurements and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from mixq.errors import OutputError, PlanError
from mixq.files import (
    atomic_path,
    is_regular,
    json_text,
    one_line,
    parse_json,
    read_bounded,
    write_json_atomic,
)
from mixq.formats import Format
from mixq.plan_parts import (
    Amount,
    CertificateInfo,
    HardwareInfo,
    Layer,
    Measurement,
    MetricInfo,
    ModelInfo,
    Part,
    Prediction,
    Row,
    StabilityInfo,
    Table,
    UniformInfo,
    WeightsInfo,
    Workload,
    is_bare_name,
)
from mixq.validation import first_problem, short

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import nn

    from mixq.plan_weights import PlanWeights

SCHEMA_VERSION: Final = 1
LARGEST_FILE: Final = 64 << 20
"""Bytes; a plan of 100,000 layers takes about 45 MB."""


class Plan(Part):
    """A bit-allocation plan; `plan.json` is exactly this.

    Plans are immutable, compare by value, print as a table and round-trip through JSON.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    mixq_version: str
    seed: int
    model: ModelInfo
    hardware: HardwareInfo
    workload: Workload
    budget: Table[Amount]
    error_metric: MetricInfo = MetricInfo()
    layers: Table[Layer]
    predicted: Prediction
    measured: Measurement
    certificate: CertificateInfo
    uniform: Table[UniformInfo] = Field(default_factory=dict)
    single: Table[UniformInfo] = Field(default_factory=dict)
    notes: Row[str] = Field(default_factory=list)
    weights: WeightsInfo | None = None
    stability: StabilityInfo | None = None

    # Where the weights are: in memory, or else beside the file that was loaded.
    _held: PlanWeights | None = PrivateAttr(default=None)
    _folder: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _has_layers(self) -> Self:
        if not self.layers:
            raise ValueError("a plan has at least one layer")
        return self

    @property
    def assignment(self) -> dict[str, Format]:
        """Unit name to format."""
        return {name: layer.format for name, layer in self.layers.items()}

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a plan from a JSON file.

        Raises:
            PlanError: if the file is missing, truncated, of another schema version, or breaks
                a rule, naming the place.
        """
        inside = Path(path) / "plan.json"
        if is_regular(inside):
            raise PlanError(f"plan {one_line(path)} is a folder; pass {one_line(inside)}")
        plan = cls.from_json(
            read_bounded(path, LARGEST_FILE, PlanError, "plan"), what=f"plan {one_line(path)}"
        )
        plan._folder = Path(path).parent
        return plan

    @classmethod
    def from_json(cls, text: str, what: str = "plan") -> Self:
        """Read a plan from JSON text.

        Raises:
            PlanError: as `load`.
        """
        data = parse_json(text, PlanError, what)
        if not isinstance(data, dict):
            raise PlanError(f"{what} is a JSON {type(data).__name__}, but a plan is an object")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise PlanError(
                f"{what} has schema_version {short.repr(version):.40}, but this mixq reads "
                f"version {SCHEMA_VERSION}; make the plan again or use the mixq that wrote it"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise PlanError(f"{what}: {first_problem(error)}") from error

    def to_json(self) -> dict[str, object]:
        """The plan as JSON values."""
        return self.model_dump(mode="json")

    def to_dict(self) -> dict[str, object]:
        """What plan.json holds, as dicts, lists, text and numbers."""
        return self.to_json()

    def to_pandas(self) -> DataFrame:
        """One row per layer: its format, kernel, bytes, seconds and error.

        The columns are `mixq.plan_view.LAYER_COLUMNS`, in this order in every version.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        from mixq.plan_view import layer_frame

        return layer_frame(self.layers)

    def _repr_html_(self) -> str:
        from mixq.plan_view import plan_html

        return plan_html(self)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all; its weights, if it has any, beside it.

        Raises:
            OutputError: if a file cannot be written, or has a name that a plan cannot hold.
            PlanError: if the plan's weights are not where they were.
        """
        if self.weights is None:
            write_json_atomic(path, self.to_json())
            return
        from mixq.plan_weights import drop_earlier, save_beside

        file = weights_file(path)
        if not is_bare_name(file):
            raise OutputError(
                f"{one_line(path)} cannot be written: its name has a backslash or what cannot be "
                "printed, and the plan must name the file beside it; choose another"
            )
        named = {**self.to_json(), "weights": {"file": file, "sha256": self.weights.sha256}}
        # The weights are put in place first, so that a plan never names a file that is not there,
        # and only once the plan is written, so that a full disk leaves the two that were there.
        beside, replaced = Path(path).with_name(file), False
        try:
            with atomic_path(path) as temporary:
                temporary.write_text(json_text(named), encoding="utf-8")
                save_beside(self, beside)
            replaced = True
        finally:
            drop_earlier(beside, replaced=replaced)

    def with_weights(self, weights: PlanWeights) -> Self:
        """This plan with the codes that its rounding made, which `save` writes beside it."""
        info = WeightsInfo(file=weights_file("plan.json"), sha256=weights.sha256)
        plan = self.model_copy(update={"weights": info})
        plan._held, plan._folder = weights, None
        return plan

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return self._value() == other._value()

    __hash__ = None  # type: ignore[assignment]

    def _value(self) -> dict[str, object]:
        """What is compared: the weights by their checksum, wherever they are."""
        return {**self.to_json(), "weights": self.weights and self.weights.sha256}

    def apply(self, model: nn.Module) -> nn.Module:
        """A copy of `model` whose modules hold packed weights; see `mixq.apply.apply`.

        Raises:
            PlanError: if the plan was made for another model.
        """
        from mixq.apply import apply

        return apply(self, model)

    def compile(
        self,
        model: nn.Module,
        calibration: object = None,
        *,
        runtime: str = "onnxruntime",
        threads: int = 1,
        **options: Any,
    ) -> nn.Module:
        """The quantized model as a module that computes in a fast runtime, without gradients.

        Where `apply` gives PyTorch modules that dequantize at every use, this runs low-bit
        kernels: the same integers in ONNX Runtime or OpenVINO, behind the original's interface.

        Args:
            model: the original; it stays as it is.
            calibration: inputs to trace and to check with, as `mixq.search` takes them. Without
                them the first call's inputs serve, and that call takes seconds.
            runtime: a name that `mixq export` knows.
            threads: that a call may use.
            options: of the runtime.

        Raises:
            PlanError: if the plan was made for another model.
            ExportError: if the runtime cannot take the plan, or does not compute what it says.
        """
        from mixq.calibration import Calibration
        from mixq.export.compile import CompiledModule

        data = None if calibration is None else Calibration.of(calibration)
        return CompiledModule(self, model, data, runtime=runtime, threads=threads, **options)

    def diff(self, other: Plan) -> dict[str, tuple[str | None, str | None]]:
        """Units whose formats differ: name to this plan's and the other's format name."""
        names = dict.fromkeys([*self.layers, *other.layers])
        pairs = {name: (_name(self.layers, name), _name(other.layers, name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def __str__(self) -> str:
        names = [one_line(name) for name in self.layers]
        width = max(len(name) for name in names)
        lines = [
            f"{name:<{width}}  {layer.format.name:<10} {layer.weight_bytes:>12,} B  "
            f"error {layer.error:.3g}"
            for name, layer in zip(names, self.layers.values(), strict=True)
        ]
        p = self.predicted
        heldout = self.measured.heldout_error
        error = self.measured.error if heldout is None else heldout
        total = (
            f"{one_line(self.model.name)} on {one_line(self.hardware.name)}: "
            f"{p.compression:.2f}x smaller, {p.weight_bytes:,} bytes, "
            f"{'' if heldout is None else 'held-out '}output error {error:.3g}"
        )
        if self.error_metric.name != "mse":
            total += f" ({one_line(self.error_metric.name)})"
        return "\n".join([*lines, total])


def weights_file(path: str | Path) -> str:
    """Name of the file that holds the weights of a plan saved at `path`, in the same folder."""
    return f"{Path(path).stem}.weights.safetensors"


def _name(layers: Mapping[str, Layer], name: str) -> str | None:
    return layers[name].format.name if name in layers else None
