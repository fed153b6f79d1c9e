"""gain_notes(): what is said where one width or one format for all layers does as well."""

from __future__ import annotations

import pytest

from mixq.formats import Format
from mixq.search.gain import gain_notes, gains
from mixq.search.limits import Limits, Totals
from mixq.search.trials import Kind, Proposal, Trial

SIZE = Limits(weight_bytes=100)


def trial(
    name: str, errors: list[float], kind: Kind = "uniform", size: int = 50, bits: int = 8,
    heldout: tuple[float, ...] | None = None,
) -> Trial:  # fmt: skip
    totals = Totals(sum(errors), size, 1.0, size, 1000 / size)
    return Trial(Proposal(name, kind, {"a": Format(bits)}), totals, tuple(errors), heldout)


MIX = trial("optimum", [1.0, 1.1, 0.9, 1.0], "additive", bits=4)


def notes(
    *plain: Trial, chosen: Trial = MIX, limits: Limits = SIZE, refused: str = ""
) -> list[str]:
    return gain_notes(chosen, plain, limits, lambda t: t.proposal.name != refused)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("uniform", "uniform 8", "uniform w8 is as good here"),
        ("single", "w4g64-gptq everywhere", "w4g64-gptq everywhere is as good here"),
    ],
    ids=["uniform", "single"],
)
def test_within_the_noise(kind: Kind, name: str, said: str) -> None:
    (note,) = notes(trial(name, [1.1, 1.2, 0.7, 1.2], kind, size=40))
    # Differences of 0.1, 0.1, -0.2, 0.2: their mean is 0.05, its standard error 0.0866.
    assert note == (
        f"{said}, within the noise of the data: its error differs by +5.0% ± 17.3% (two standard "
        "errors, 4 samples), at 25.00x against 20.00x"
    )


def test_samples_that_say_little_are_not_called_as_good() -> None:
    (note,) = notes(trial("uniform 8", [1.0, 1.1, 0.9, 9.0]))
    assert note.startswith("4 samples do not tell uniform w8 from this plan: its error differs by")


NOTHING: dict[str, tuple[Trial, Limits]] = {
    "beaten-beyond-noise": (trial("uniform 8", [1.2, 1.3, 1.1, 1.2]), SIZE),
    "does-not-fit": (trial("uniform 8", [1.0, 1.1, 0.9, 1.0], size=101), SIZE),
    "errs-more-than-demanded": (
        trial("uniform 8", [1.0, 1.1, 0.9, 1.001]), Limits(weight_bytes=100, error=1.0)
    ),
    "larger-where-the-smallest-was-sought": (
        trial("uniform 8", [1.0, 1.1, 0.9, 1.0], size=51), Limits(error=2.0)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rival", "limits"), NOTHING.values(), ids=NOTHING)
def test_nothing_is_said(rival: Trial, limits: Limits) -> None:
    assert notes(rival, limits=limits) == []


def test_larger_ones_that_fit_count_where_bytes_are_limited() -> None:
    assert len(notes(trial("uniform 8", [1.0, 1.1, 0.9, 1.0], size=100))) == 1


def test_the_best_that_keeps_the_metric_is_named() -> None:
    good = trial("uniform 8", [1.0, 1.1, 0.9, 1.0])
    better = trial("uniform 4", [0.9, 1.1, 0.9, 1.0], size=30)
    assert notes(good, better)[0].startswith("uniform w4")
    assert notes(good, better, refused="uniform 4")[0].startswith("uniform w8")


def test_a_mix_that_is_no_mix_is_called_so() -> None:
    same = trial("uniform 8", [1.0], bits=4)
    assert notes(same)[0].startswith("uniform 8 bit already meets the demands")
    single = trial("w4g64 everywhere", [1.0], "single", bits=4)
    assert notes(single)[0].startswith("w4g64 everywhere already meets the demands")


def test_heldout_samples_count_too() -> None:
    lucky = trial("optimum", [0.1, 0.2], "additive", bits=4, heldout=(9.0, 1.0))
    plain = trial("uniform 8", [1.0, 1.1], heldout=(1.0, 1.1))
    assert gains(trial("a", [0.1, 0.2]), trial("b", [1.0, 1.1]))
    assert not gains(lucky, plain)


def test_where_nothing_errs() -> None:
    exact = trial("optimum", [0.0, 0.0], "additive", bits=4)
    (note,) = notes(trial("uniform 8", [0.0, 0.0]), chosen=exact)
    assert "differs by +0 ± 0" in note
