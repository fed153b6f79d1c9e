"""Checkpoint: where a training run is, on disk, so that an interrupted one can go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from mixq.errors import OutputError
from mixq.files import one_line
from mixq.tensor_file import read_tensors, write_tensors
from mixq.training.trainer import Look, State
from mixq.validation import first_problem

FILE: Final = "finetune.safetensors"
_PARTS: Final = ("now", "best", "mean", "square")


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    run: str
    step: int = Field(ge=0, le=1 << 62)
    looked: list[int] = Field(min_length=1)
    losses: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(min_length=1)
    broken: bool

    @model_validator(mode="after")
    def _looks_fit(self) -> Self:
        if len(self.looked) != len(self.losses):
            raise ValueError(f"{len(self.looked)} looks have {len(self.losses)} losses")
        if not all(0 <= step <= self.step for step in self.looked):
            raise ValueError(f"a look is not between the steps 0 and {self.step}")
        return self


class Checkpoint:
    """One file in a folder; without a folder nothing is kept.

    Args:
        folder: made if it is missing.
        run: says which run it is, so that another is never taken up by mistake.

    Raises:
        OutputError: if the folder cannot be made.
    """

    def __init__(self, folder: str | Path | None, run: str) -> None:
        self._path = None if folder is None else Path(folder) / FILE
        self._run = run
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"folder {one_line(self._path.parent)} cannot be made: "
                f"{error.strerror or error}; choose another"
            ) from error

    def keep(self, state: State, numbers: Mapping[str, Tensor]) -> None:
        """Write a run's state and its trained numbers, whole or not at all.

        Raises:
            OutputError: if the file cannot be written.
        """
        if self._path is None:
            return
        tensors: dict[str, Tensor] = {}
        for name, number in numbers.items():
            mean, square = state.moments[name]
            parts = (number, state.best[name], mean, square)
            tensors |= {f"{part} {name}": t for part, t in zip(_PARTS, parts, strict=True)}
        header = {
            "run": self._run,
            "step": state.step,
            "looked": [look.step for look in state.looks],
            "losses": [look.loss for look in state.looks],
            "broken": state.broken,
        }
        write_tensors(self._path, tensors, header)

    def resume(self, numbers: Mapping[str, Tensor]) -> State:
        """The state that was kept, its trained numbers put into `numbers`; else a new one.

        Raises:
            OutputError: if the file is damaged or another run's.
        """
        if self._path is None or not self._path.exists():
            return State()
        where = f"checkpoint {one_line(self._path)}"
        data, tensors, _ = read_tensors(self._path, OutputError, where)
        try:
            header = _Header.model_validate(data)
        except ValidationError as error:
            raise OutputError(f"the header of {where}: {first_problem(error)}") from error
        names = {f"{part} {name}" for part in _PARTS for name in numbers}
        if header.run != self._run or set(tensors) != names:
            raise OutputError(
                f"{where} is of another run: another model, plan, teacher, data or setting; "
                "choose another folder or delete it"
            )
        for key, tensor in tensors.items():
            own = numbers[key.partition(" ")[2]]
            fits = tensor.shape == own.shape and tensor.dtype == own.dtype
            if not fits or not bool(tensor.isfinite().all()):
                raise OutputError(
                    f"{where}: {one_line(key, 100)} is not of the trained number's shape and "
                    "kind, or not finite; delete the file to train from the start"
                )
            if key.startswith("square ") and bool((tensor < 0).any()):
                raise OutputError(
                    f"{where}: {one_line(key, 100)} has negative squares; delete the file to "
                    "train from the start"
                )
        with torch.no_grad():
            for name, number in numbers.items():
                number.copy_(tensors[f"now {name}"])
        return State(
            step=header.step,
            looks=list(map(Look, header.looked, header.losses)),
            best={name: tensors[f"best {name}"].clone() for name in numbers},
            moments={
                name: (tensors[f"mean {name}"].clone(), tensors[f"square {name}"].clone())
                for name in numbers
            },
            broken=header.broken,
        )
