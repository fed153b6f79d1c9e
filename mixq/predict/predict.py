"""Predictor: a row, whatever it asks, predicted on its chip or refused in one line."""

from __future__ import annotations

from functools import cache
from typing import Final

from mixq.cost.kernels import price, weight_matrix
from mixq.cost.machine import Machine
from mixq.errors import MixqError, UsageError
from mixq.formats import Format
from mixq.graph.work import Work
from mixq.predict.chips import chip_of
from mixq.predict.prediction import Prediction, Refusal
from mixq.predict.products import predict_product, shaped
from mixq.predict.row import Row
from mixq.predict.threads import threads_of
from mixq.predict.whole_models import predict_model
from mixq.profiles import Profile, load
from mixq.profiles.convert import ASSUMED_SPREAD

AUTO: Final = "auto"
"""Hardware that each row names itself."""


class Predictor:
    """Predicts rows.

    Args:
        hardware: a profile's name, a TOML file, or `auto`.

    Raises:
        ProfileError: if there is no such profile.
    """

    def __init__(self, hardware: str) -> None:
        self._profile = None if hardware == AUTO else load(hardware)

    def predict(self, row: Row) -> Prediction | Refusal:
        """What `row` would measure, or why nobody can say."""
        try:
            if self._profile is not None:
                return _on(self._profile, row)
            chip = chip_of(row.chip)
            found = _on(_loaded(chip.profile), row)
            return found.wider(chip.spread, chip.note) if chip.spread else found
        except MixqError as error:
            return Refusal(str(error))


@cache
def _loaded(name: str) -> Profile:
    return load(name)


def _on(profile: Profile, row: Row) -> Prediction:
    row = shaped(row)
    if not row.is_product:
        return predict_model(profile, row)
    runtime = next(
        (
            one
            for one in profile.runtimes.values()
            if one.searchable and row.runtime in (one.name, one.title)
        ),
        None if row.runtime else profile.runtime(),
    )
    if row.kernel or runtime is None:
        return predict_product(profile, row)
    return _picked(profile, runtime.name, row)


def _picked(profile: Profile, runtime: str, row: Row) -> Prediction:
    """A product by the kernel that a searchable runtime would pick, as the search prices it."""
    assert row.m is not None
    assert row.n is not None
    assert row.k is not None
    fmt = _format(row)
    machine = Machine.of(profile, runtime, threads_of(row.cores_or_threads, profile).count)
    work = Work(
        "gemm",
        m=row.m,
        n=row.n,
        k=row.k,
        input_bytes=4 * row.m * row.k,
        output_bytes=4 * row.m * row.n,
    )
    call = price(machine, work, fmt, weight_matrix(work))
    spread = ASSUMED_SPREAD if call.kernel is None else call.kernel.spread
    how = [call.reason, fmt.name]
    if profile.units_per_core == 1:
        how.append(f"{machine.threads} thread{'s' * (machine.threads > 1)}")
    return Prediction.of(
        row,
        call.latency_s,
        spread,
        kernel=f"{machine.runtime.title}: {call.name}",
        note=", ".join(how),
    )


def _format(row: Row) -> Format:
    """The format of a question; 16-bit activations are those of a GPU's float products.

    Raises:
        UsageError: if no format has such bits.
    """
    bits, inputs = row.weight_bits, row.activation_bits
    if not bits.is_integer() or inputs not in (None, 8, 16, 32):
        raise UsageError(
            f"{bits:g}-bit weights and {inputs}-bit activations are no format that a search "
            "takes: weights have 32, 16, 8, 4 or 2 bits, activations 32, 16 or, beside 8-bit "
            "weights, 8; name a --kernel to ask for others"
        )
    rounded = bits == inputs == 8
    return Format(
        int(bits), group_size=row.group_size, activation="dynamic" if rounded else "none"
    )
