"""Measuring: changes that no plan can have are left out, the others are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest
import torch
from torch import nn

from mixq.calibration import Calibration
from mixq.errors import FormatError, NonFiniteError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.progress import Progress, silent
from mixq.rounding.rounder import Rounder
from mixq.search.limits import Totals
from mixq.search.refine.measuring import STAGE, Measuring
from mixq.search.trials import Proposal, Trial
from mixq.sensitivity.around import Around, Change
from mixq.sensitivity.joint import joint_errors
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.store import Store

if TYPE_CHECKING:
    from mixq.search.session import Session

W8, W4, W2 = Format(8, 16), Format(4, 16), Format(2, 16, "zero-point")


@dataclass
class Bare:
    """What measuring takes of a session."""

    rounder: Rounder
    references: dict[str, Reference]
    progress: Progress = silent


def subject() -> tuple[Bare, Trial]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, data = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4)), torch.randn(6, 16)
    rounder = Rounder(model.eval(), {unit.name: unit for unit in find_units(model)})
    references = {"calibration": Reference(model, Calibration.of(data))}
    plan = dict.fromkeys(rounder.units, W4)
    errors = joint_errors(rounder, plan, references, "plan")["calibration"]
    trial = Trial(
        Proposal("p", "additive", plan), Totals(0.0, 1, 0.0, 1, 1.0), tuple(errors), None
    )
    return Bare(rounder, references), trial


def test_effects_are_those_of_whole_plans() -> None:
    bare, trial = subject()
    changes = [Change((unit,), fmt) for unit in bare.rounder.units for fmt in (W8, W2)]
    stages: list[tuple[str, int, int]] = []
    bare.progress = lambda stage, done, total: stages.append((stage, done, total))
    found = Measuring(lambda plan: Store(None))(cast("Session", bare), trial, changes)
    assert found.errors == trial.errors
    for change in changes:
        plan = {**trial.proposal.assignment, change.units[0]: change.format}
        whole = joint_errors(bare.rounder, plan, bare.references, "plan")["calibration"]
        assert list(found.changed[change]) == whole
    assert stages[-1] == (STAGE, 4, 4)


@pytest.mark.parametrize("error", [FormatError("no such scale"), NonFiniteError("NaN")], ids=repr)
def test_a_change_that_cannot_be_is_left_out(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, trial = subject()
    good, bad = (Change((unit,), W2) for unit in bare.rounder.units)
    plain = Around.errors

    def refusing(self: Around, change: Change) -> list[float]:
        if change == bad:
            raise error
        return plain(self, change)

    monkeypatch.setattr(Around, "errors", refusing)
    found = Measuring(lambda plan: Store(None))(cast("Session", bare), trial, [good, bad])
    assert set(found.changed) == {good}


def test_what_is_kept_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bare, trial = subject()
    store = Store(None)
    first, second = (Change((unit,), W2) for unit in bare.rounder.units)
    Measuring(lambda plan: store)(cast("Session", bare), trial, [first])
    measured: list[Change] = []
    plain = Around.errors

    def counted(self: Around, change: Change) -> list[float]:
        measured.append(change)
        return plain(self, change)

    monkeypatch.setattr(Around, "errors", counted)
    found = Measuring(lambda plan: store)(cast("Session", bare), trial, [first, second])
    assert measured == [second]
    assert set(found.changed) == {first, second}
