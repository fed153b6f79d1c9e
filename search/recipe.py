"""Recipe: hardware, formats and demands for one kind of deployment; options go before it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from mixq.errors import ProfileError, UsageError
from mixq.files import one_line, parse_toml, read_bounded
from mixq.formats import GROUP_SIZES, METHODS, Activation, Grid
from mixq.profiles import Profile
from mixq.profiles import load as load_profile
from mixq.search.budget import Budget
from mixq.search.palette import Palette
from mixq.search.request import DEFAULT_BITS, demands
from mixq.validation import first_problem

MAX_BYTES: Final = 64 * 1024
"""Largest recipe file read; the shipped ones take two kilobytes."""
_DOCS: Final = "docs/recipes.md describes the file"

_T = TypeVar("_T")


def _method(name: str) -> str:
    if name != "auto" and name not in METHODS:
        raise ValueError(f"{name!r:.40} is none of auto, {', '.join(METHODS.names())}")
    return name


Some = Annotated[tuple[_T, ...], Field(min_length=1, max_length=100, strict=False)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f]+$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AtLeastOne = Annotated[int, Field(ge=1, le=1 << 31)]
MethodName = Annotated[str, AfterValidator(_method)]
GroupSize = Annotated[int, Field(ge=GROUP_SIZES[0], le=GROUP_SIZES[1])]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class FormatsFile(_Part):
    """What a search may choose from; see `mixq.search.palette.Palette`."""

    bits: Some[Literal[32, 16, 8, 4, 2]] | None = None
    group_sizes: Some[GroupSize | Literal["channel"]] | None = None
    grids: Some[Grid] | None = None
    method: MethodName | None = None
    activations: Some[Activation] | None = None
    half: Literal["float16", "bfloat16"] | None = None


class BudgetFile(_Part):
    """Demands in the units of the command line; see `mixq.search.request.demands`."""

    target_compression: Positive | None = None
    max_size_mb: Positive | None = None
    max_latency_ms: Positive | None = None
    min_speedup: Positive | None = None
    max_memory_mb: Positive | None = None
    max_error: NotNegative | None = None
    max_metric_drop: NotNegative | None = None


class RecipeFile(_Part):
    """A whole recipe file."""

    name: Text
    description: Text = "a recipe of the user's own"
    hardware: Text | None = None
    batch_size: AtLeastOne | None = None
    threads: AtLeastOne | None = None
    samples: AtLeastOne | None = None
    formats: FormatsFile = FormatsFile()
    budget: BudgetFile = BudgetFile()


@dataclass(frozen=True)
class Recipe:
    """What a recipe sets; what it leaves out is as it would be without one.

    Attributes:
        hardware: name of a profile, or a TOML file.
        formats: arguments of `Palette`.
        budget: arguments of `mixq.search.request.demands`.
        batch_size, threads: of the predicted workload.
        samples: calibration samples to measure on.
    """

    name: str = ""
    description: str = ""
    hardware: str | None = None
    formats: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    threads: int | None = None
    samples: int | None = None

    def profile(self, given: str | Profile | None = None) -> Profile:
        """The chip that is given, else the recipe's.

        Raises:
            UsageError: if there is neither.
            ProfileError: if there is no such profile, or it breaks a rule.
        """
        if isinstance(given, Profile):
            return given
        if given is not None:
            return load_profile(given)
        if self.hardware is None:
            raise UsageError(
                "--hardware is missing; name a chip (mixq hardware list), or a --recipe that does"
            )
        try:
            return load_profile(self.hardware)
        except ProfileError as error:
            raise ProfileError(f"recipe {one_line(repr(self.name), 80)}: {error}") from error

    def palette(self, **given: Any) -> Palette:
        """The formats to choose from: those given, else the recipe's, else the defaults.

        Args:
            given: arguments of `Palette`; None is not given.

        Raises:
            UsageError: if one of them is unknown.
        """
        return Palette(**{"bits": DEFAULT_BITS, **self.formats, **_given(given)})

    def demands(self, **given: float | None) -> Budget:
        """The demands together; one that is given takes the place of the recipe's of that name.

        Args:
            given: arguments of `mixq.search.request.demands`; None is not given.

        Raises:
            UsageError: for a demand that is not a positive finite number.
        """
        return demands(**{**self.budget, **_given(given)})


def available() -> tuple[str, ...]:
    """Names of the shipped recipes, sorted."""
    files = resources.files("mixq.search").joinpath("recipes").iterdir()
    return tuple(sorted(file.name[:-5] for file in files if file.name.endswith(".toml")))


def load(name_or_path: str | Path) -> Recipe:
    """The recipe of that name, or of the user's own `.toml` file.

    Raises:
        UsageError: if there is no such recipe, or it breaks a rule; one line that names the file
            and the key.
    """
    given = str(name_or_path)
    if given in available():
        file = resources.files("mixq.search").joinpath("recipes", f"{given}.toml")
        return parse(file.read_text(encoding="utf-8"), origin=given)
    if not (given.endswith(".toml") or os.sep in given):
        near = difflib.get_close_matches(given.lower(), available(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UsageError(
            f"recipe {one_line(repr(given), 80)} is not a shipped one and not a .toml file; "
            f"{hint}shipped are {', '.join(available())}"
        )
    path = Path(given)
    text = read_bounded(path, MAX_BYTES, UsageError, "recipe")
    return parse(text, origin=given, folder=path.parent)


def parse(text: str, *, origin: str, folder: Path | None = None) -> Recipe:
    """The recipe that a TOML text describes.

    Args:
        text: what the file holds.
        origin: names it in errors.
        folder: where a hardware file with a relative path is looked for.

    Raises:
        UsageError: if the text is no TOML or breaks a rule.
    """
    what = f"recipe {one_line(repr(origin), 200)}"
    try:
        # ValueError covers TOMLDecodeError and integers with too many digits.
        file = RecipeFile.model_validate(parse_toml(text))
    except ValidationError as error:
        raise UsageError(f"{what}: {first_problem(error)}; {_DOCS}") from error
    except ValueError as error:
        raise UsageError(
            f"{what}: not readable as TOML: {one_line(error, 160)}; {_DOCS}"
        ) from error
    hardware = file.hardware
    if hardware is not None and folder is not None and hardware.endswith(".toml"):
        hardware = str(folder / hardware)
    formats = file.formats.model_dump(exclude_none=True)
    if "group_sizes" in formats:
        sizes = formats["group_sizes"]
        formats["group_sizes"] = tuple(None if size == "channel" else size for size in sizes)
    if "half" in formats:
        formats["half"] = "symmetric" if formats["half"] == "float16" else formats["half"]
    return Recipe(
        name=file.name,
        description=file.description,
        hardware=hardware,
        formats=formats,
        budget=file.budget.model_dump(exclude_none=True),
        batch_size=file.batch_size,
        threads=file.threads,
        samples=file.samples,
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
