"""Parts of a plan: what plan.json holds of the model, the chip, each layer and the search."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from mixq.formats import Activation, Format, Grid
from mixq.validation import short

LONGEST_LIST: Final = 1000
EVERYWHERE: Final = " everywhere"
"""What follows the format in the name of a plan that gives it to every unit."""


def _one_by_one(data: object, handler: ValidatorFunctionWrapHandler) -> Any:
    # Stops at the first bad entry: reports on all of 5 million took 8 GB.
    if not isinstance(data, dict):
        return handler(data)
    return {k: v for key, value in data.items() for k, v in handler({key: value}).items()}


_T = TypeVar("_T")
Table = Annotated[dict[str, _T], WrapValidator(_one_by_one)]
Row = Annotated[list[_T], Field(max_length=LONGEST_LIST)]  # which stops at the first too many
Count = Annotated[int, Field(ge=0, le=1 << 62)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Metrics = Table[Annotated[float, Field(allow_inf_nan=False)]]


class Part(BaseModel):
    """What every part is: frozen, strict, and open to fields of later versions."""

    # Fields may be added within a schema version, so unknown ones are passed over.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, protected_namespaces=())


class ModelInfo(Part):
    """Which model the plan is for."""

    name: str
    fingerprint: str
    parameters: Count
    original_bytes: Count


class HardwareInfo(Part):
    """Which chip, runtime and number of threads the predictions are for."""

    name: str
    fingerprint: str
    runtime: str
    threads: Count


class Workload(Part):
    """The forward pass that latency and memory are predicted for."""

    batch_size: Count
    shapes: Table[Row[int]] = {}


class Layer(Part):
    """One weight unit of the plan.

    Attributes:
        matrix: (rows, columns) in which the unit is quantized.
        aliases: further names of the same storage.
        error: measured output error of quantizing this unit alone, with its standard error.
        stability: share of the resamplings of the calibration samples in which the unit keeps
            its width; None if nothing is known of that.
        format_stability: the same for the whole format.
    """

    bits: int
    group_size: int | None = None
    grid: Grid = "symmetric"
    activation: Activation = "none"
    method: str = "rtn"
    bias_corrected: bool = False
    kernel: str = ""
    weight_bytes: Count
    latency_s: Amount
    error: Amount
    error_se: Amount
    shape: Row[int]
    matrix: tuple[Count, Count]
    aliases: Row[str] = []
    stability: Share | None = None
    format_stability: Share | None = None

    @model_validator(mode="before")
    @classmethod
    def _list_is_a_pair(cls, data: object) -> object:
        # JSON has no tuples and strict validation would refuse a list for one.
        if isinstance(data, dict) and isinstance(data.get("matrix"), list):
            return {**data, "matrix": tuple(data["matrix"])}
        return data

    @model_validator(mode="after")
    def _format_exists(self) -> Self:
        _ = self.format  # a FormatError is a ValueError, which pydantic reports with its path
        return self

    @property
    def format(self) -> Format:
        """The format as a value."""
        return Format(
            self.bits, self.group_size, self.grid, self.method, self.activation,
            self.bias_corrected,
        )  # fmt: skip


class MetricInfo(Part):
    """What output errors are in, and of which outputs.

    Attributes:
        name: `mse`, `relative`, `kl`, `cosine`, or the module and name of a user's loss.
        outputs: their weights by name, which add up to 1; empty for the main output, whatever it
            is called. `output_mse` is of the same outputs.
    """

    name: str = "mse"
    outputs: Table[Amount] = {}


class _Judged(Part):
    """A part with errors in the plan's metric; in plans before those, its squared errors."""

    @model_validator(mode="before")
    @classmethod
    def _errors_of_old_plans(cls, data: object) -> object:
        if not isinstance(data, dict) or "error" in data or "output_mse" not in data:
            return data
        olds = {"error": "output_mse", "error_se": "output_mse_se"}
        olds["heldout_error"] = "heldout_output_mse"
        return {**data, **{new: data[old] for new, old in olds.items() if old in data}}


class Prediction(_Judged):
    """What the cost model and the sensitivity table say of the whole plan.

    Attributes:
        error: added output errors of the layers, in the plan's metric.
        output_mse: the same where that is squared error; nothing else predicts it.
        latency_low_s, latency_high_s: 80% of measured latencies are expected between them; None
            where nothing is known of that.
        speedup, speedup_low, speedup_high: over 32 bits, with its own interval.
        peak_memory_bytes: of a process, from loading the file to its last pass.
        file_bytes: of the exported file; None in plans that do not say.
    """

    compression: Amount
    weight_bytes: Count
    latency_s: Amount
    latency_low_s: Amount | None = None
    latency_high_s: Amount | None = None
    speedup: Amount | None = None
    speedup_low: Amount | None = None
    speedup_high: Amount | None = None
    file_bytes: Count | None = None
    baseline_latency_s: Amount
    peak_memory_bytes: Count
    error: Amount
    output_mse: Amount | None = None


class Measurement(_Judged):
    """What running the quantized model gave, on calibration data and on held-out data.

    The former are those that the search measured on: not what rounding learnt from, unless it
    did so at the end, when the chosen plan was rounded once more.

    Attributes:
        error, error_se, heldout_error: in the plan's metric, which the search went by.
        output_mse, heldout_output_mse: mean squared errors, whatever the metric.
    """

    error: Amount
    error_se: Amount = 0.0
    heldout_error: Amount | None = None
    output_mse: Amount
    output_mse_se: Amount = 0.0
    relative_output_mse: Amount
    heldout_output_mse: Amount | None = None
    metric: Metrics = {}
    original_metric: Metrics = {}


class StabilityInfo(Part):
    """What another draw of the calibration samples would change.

    Attributes:
        samples: that sensitivities were measured on; fewer than 4 say nothing.
        resamplings: draws that were planned for again; 0 if nothing can be said.
        kept: share of them in which a unit keeps its width, on average over the units.
        regret: how much more of the added error a plan from another draw has, on average, as a
            share.
    """

    samples: Count
    resamplings: Count
    kept: Share
    regret: Amount


class CertificateInfo(Part):
    """How close the additive objective is to the best possible one.

    Attributes:
        states: partial sums or nodes that the proof took; 0 in plans that do not say.
    """

    objective: Amount
    lower_bound: Amount
    gap: Amount
    solver: str
    states: Count = 0


class WeightsInfo(Part):
    """The file beside the plan that holds the codes which the plan's rounding made.

    Attributes:
        file: its bare name; it lies in the folder of the plan's own file.
        sha256: the checksum in it.
    """

    file: str = Field(max_length=255)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("file")
    @classmethod
    def _stays_in_its_folder(cls, file: str) -> str:
        if not is_bare_name(file):
            raise ValueError(f"{short.repr(file):.60} is not the bare name of a file")
        return file


class UniformInfo(_Judged):
    """One width, or one format, for every unit, predicted and measured beside the plan."""

    weight_bytes: Count
    compression: Amount
    latency_s: Amount
    error: Amount
    heldout_error: Amount | None = None
    output_mse: Amount
    heldout_output_mse: Amount | None = None
    metric: Metrics = {}


def is_bare_name(file: str) -> bool:
    """Whether a name leads to no other folder, on any system, and survives JSON."""
    return file.isprintable() and not {"/", "\\"} & set(file) and file not in ("", ".", "..")
