"""SuiteFile: the TOML file of `mixq bench --suite`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from mixq.errors import UsageError
from mixq.files import one_line, parse_toml, read_bounded
from mixq.validation import first_problem

MAX_BYTES: Final = 256 * 1024
"""Largest suite file read; the shipped example takes two kilobytes."""
_DOCS: Final = "docs/bench.md describes the file"

_T = TypeVar("_T")
Some = Annotated[tuple[_T, ...], Field(min_length=1, max_length=1000, strict=False)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f]+$")]
AtLeastOne = Annotated[int, Field(ge=1, le=1 << 31)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MethodName = Literal["fp32", "int8_dynamic", "int8_static", "int4_grouped", "mixed"]
METHODS: Final[tuple[MethodName, ...]] = (
    "fp32", "int8_dynamic", "int8_static", "int4_grouped", "mixed",
)  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class MixedFile(_Part):
    """The mixed plan: one that is there, or a search for it.

    Attributes:
        plan: path of a plan.json.
        target_compression: searched for, if no plan is given.
        hardware: that the search is for.
        trials: that it measures.
    """

    plan: Text | None = None
    target_compression: Positive | None = None
    hardware: Text = "intel_cpu"
    trials: AtLeastOne | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.plan is None) == (self.target_compression is None):
            raise ValueError("give either plan or target_compression")
        return self


class DataFile(_Part):
    """A labelled data set.

    Attributes:
        evaluate: `file.py:function` or `package.module:function` of the model, which returns
            metrics by name; by default what the model's own spec brings.
        metric: the headline; by default the function's `primary`, or its first.
    """

    name: Text
    evaluate: Text | None = None
    metric: Text | None = None


class ModelFile(_Part):
    """A model with its data sets.

    Attributes:
        spec, calibration, sequence: as `--model`, `--calibration` and `--sequence` take them.
    """

    name: Text
    spec: Text
    calibration: Text | None = None
    sequence: AtLeastOne | None = None
    mixed: MixedFile | None = None
    data: Some[DataFile] = (DataFile(name="its own"),)


class SuiteFile(_Part):
    """A whole suite file."""

    name: Text
    runtime: Text = "onnxruntime"
    threads: AtLeastOne = 1
    batch_size: AtLeastOne = 1
    repeat: AtLeastOne = 30
    seed: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    methods: Some[MethodName] = METHODS
    models: Some[ModelFile]

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError("two models have one name; name each once")
        for model in self.models:
            if len({data.name for data in model.data}) < len(model.data):
                raise ValueError(f"two data sets of model {model.name!r:.60} have one name")
            if "mixed" in self.methods and model.mixed is None:
                raise ValueError(
                    f"methods has 'mixed', but model {model.name!r:.60} has no [models.mixed] "
                    "with a plan or a target_compression"
                )
        return self


def load_suite(path: str | Path) -> SuiteFile:
    """The suite that a TOML file describes; paths in it are relative to its folder.

    Raises:
        UsageError: if there is no such file, or it breaks a rule; one line that names the file
            and the key.
    """
    text = read_bounded(path, MAX_BYTES, UsageError, "suite")
    what = f"suite {one_line(repr(str(path)), 200)}"
    try:
        # ValueError covers TOMLDecodeError and integers with too many digits.
        file = SuiteFile.model_validate(parse_toml(text))
    except ValidationError as error:
        raise UsageError(f"{what}: {first_problem(error)}; {_DOCS}") from error
    except ValueError as error:
        raise UsageError(
            f"{what}: not readable as TOML: {one_line(error, 160)}; {_DOCS}"
        ) from error
    folder = Path(path).parent
    return file.model_copy(
        update={"models": tuple(_placed(folder, model) for model in file.models)}
    )


def _placed(folder: Path, model: ModelFile) -> ModelFile:
    """A model whose paths are as seen from here."""
    mixed = model.mixed
    if mixed is not None:
        plan = None if mixed.plan is None else str(folder / mixed.plan)
        hardware = mixed.hardware
        if hardware.endswith(".toml"):
            hardware = str(folder / hardware)
        mixed = mixed.model_copy(update={"plan": plan, "hardware": hardware})
    data = tuple(
        one.model_copy(update={"evaluate": _spec(folder, one.evaluate)}) for one in model.data
    )
    return model.model_copy(
        update={
            "spec": _spec(folder, model.spec),
            "calibration": _spec(folder, model.calibration),
            "mixed": mixed,
            "data": data,
        }
    )


def _spec(folder: Path, spec: str | None) -> str | None:
    """A spec whose file or folder lies beside the suite; any other as it is."""
    if spec is None:
        return None
    path = spec.rpartition(":")[0] if ".py:" in spec else spec
    return str(folder / spec) if (folder / path).exists() else spec
