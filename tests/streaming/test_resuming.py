"""Measuring goes on from a store, be it that of the model in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from torch import Tensor

from mixq.sensitivity.measured import measure
from mixq.sensitivity.store import Store
from mixq.streaming import measured as measured_module
from mixq.streaming.measured import measure_streamed
from mixq.streaming.shards import Shards

from .conftest import Both

KEY = ("model", "data")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 3, 17])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_table(
    both: Both, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_module, "MOST_PASSES", 2)
    formats = {unit: own[:3] for unit, own in both.formats.items()}
    expected = measure_streamed(both.streamed, both.calibration, formats)

    def killing(stage: str, done: int, total: int) -> None:
        if stage == measured_module.STAGE and done > after:
            raise Killed

    with pytest.raises(Killed):
        measure_streamed(
            both.streamed, both.calibration, formats, store=Store(tmp_path, *KEY), progress=killing
        )
    steps: list[int] = []
    found = measure_streamed(
        both.streamed, both.calibration, formats, store=Store(tmp_path, *KEY),
        progress=lambda stage, done, total: steps.append(done),
    )  # fmt: skip
    assert found == expected
    assert after < steps[0] <= after + 2 * len(both.calibration.batches)


def test_what_was_measured_in_memory_is_not_measured_again(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = {unit: own[:2] for unit, own in both.formats.items()}
    units = list(both.streamed.units.values())
    whole = measure(both.whole, both.calibration, units, formats, store=Store(tmp_path, *KEY))
    both.streamed.fingerprint()
    fetches: list[str] = []
    fetch = Shards.fetch

    def counted(self: Shards, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = list(names)
        fetches.extend(wanted)
        return fetch(self, wanted)

    monkeypatch.setattr(Shards, "fetch", counted)
    found = measure_streamed(both.streamed, both.calibration, formats, store=Store(tmp_path, *KEY))
    assert found == whole
    assert len(fetches) <= len(list(both.streamed.model.named_parameters())) + 1  # the original's
