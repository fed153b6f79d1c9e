"""The Optuna study: every measured plan once, through kills, damage and lost storages."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.trial import TrialState

from mixq.errors import MixqError, ModelError, OutputError, UsageError
from mixq.formats import Format
from mixq.progress import silent
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.study.ledger import open_ledger
from mixq.search.study.rounds import Measure, run_trials
from mixq.search.study.sampler import PlanSampler
from mixq.search.study.storage import JOURNAL, open_storage, storage_problems
from mixq.search.study.study import Errors, open_study
from mixq.search.trials import Proposal, Trial

W8, W4 = Format(8, 64), Format(4, 64)
PROBLEM = Problem(
    {
        "a": (Choice(W8, 0.1, 80, 1.0), Choice(W4, 0.2, 40, 2.0)),
        "b": (Choice(W8, 0.3, 80, 1.0), Choice(W4, 0.6, 40, 2.0)),
    },
    original_bytes=640,
)


def plan(a: Format, b: Format, name: str = "") -> Proposal:
    return Proposal(name or f"{a.name} {b.name}", "tilted", {"a": a, "b": b})


PLANS = [plan(W8, W8), plan(W4, W8), plan(W4, W4)]


class Meter:
    """Measures plans by a table, and remembers which."""

    def __init__(self, fails_at: str = "") -> None:
        self.names: list[str] = []
        self.fails_at = fails_at

    def __call__(self, proposal: Proposal) -> Errors:
        if proposal.name == self.fails_at:
            raise ModelError("output is NaN")
        self.names.append(proposal.name)
        bits = [fmt.bits for fmt in proposal.assignment.values()]
        return [1.0 / bits[0], 1.0 / bits[1]], [0.0]


class Killed(BaseException):
    pass


def each(meter: Callable[[Proposal], Errors]) -> Measure:
    """Measures one plan after the other."""

    def measure(proposals: Sequence[Proposal]) -> Generator[tuple[int, Errors | MixqError]]:
        for index, proposal in enumerate(proposals):
            try:
                yield index, meter(proposal)
            except MixqError as error:
                yield index, error

    return measure


def go(
    storage: BaseStorage,
    plans: list[Proposal],
    meter: Callable[[Proposal], Errors] | None = None,
    limits: Limits | None = None,
) -> list[Trial]:
    ledger = open_ledger(storage, "s", PROBLEM, limits or Limits())
    return run_trials(ledger, plans, each(meter or Meter()), silent)


def test_every_plan_is_measured_once_and_in_order(tmp_path: Path) -> None:
    meter = Meter()
    trials = go(open_storage(tmp_path, None), PLANS, meter)
    assert [trial.proposal for trial in trials] == PLANS
    assert meter.names == [proposal.name for proposal in PLANS]
    again = go(open_storage(tmp_path, None), PLANS[::-1], meter)
    assert again == trials[::-1]
    assert len(meter.names) == 3


def test_two_names_of_one_plan_are_measured_once() -> None:
    meter = Meter()
    trials = go(InMemoryStorage(), [plan(W4, W4, "x"), plan(W4, W4, "y")], meter)
    assert meter.names == ["x"]
    assert [trial.proposal.name for trial in trials] == ["x", "y"]
    assert trials[0].errors == trials[1].errors


def test_what_optuna_sees(tmp_path: Path) -> None:
    (trial,) = go(open_storage(tmp_path, None), [plan(W4, W8)])
    study = optuna.load_study(study_name="s", storage=open_storage(tmp_path, None))
    (stored,) = study.trials
    assert stored.params == {"a": "w4g64", "b": "w8g64"}
    assert stored.values == [trial.measured.error, 120.0, 3.0]
    assert stored.user_attrs == {
        "name": "w4g64 w8g64",
        "kind": "tilted",
        "compression": 640 / 120,
        "predicted_error": 0.5,
        "errors": list(trial.errors),
        "heldout_errors": [0.0],
    }
    assert [direction.name for direction in study.directions] == ["MINIMIZE"] * 3
    assert stored.distributions["a"].choices == ("w8g64", "w4g64")  # type: ignore[attr-defined]


def test_a_plan_that_cannot_be_measured_is_failed_and_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="NaN"):
        go(open_storage(tmp_path, None), PLANS, Meter(fails_at=PLANS[1].name))
    study = optuna.load_study(study_name="s", storage=open_storage(tmp_path, None))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]


def test_a_kill_in_the_middle_of_a_trial(tmp_path: Path) -> None:
    def killed(proposal: Proposal) -> Errors:
        raise Killed

    with pytest.raises(Killed):
        go(open_storage(tmp_path, None), PLANS, killed)
    # As it lies there: opening it fails the trial.
    left = optuna.load_study(study_name="s", storage=open_storage(tmp_path, None))
    assert [trial.state for trial in left.trials] == [TrialState.RUNNING]
    meter = Meter()
    go(open_storage(tmp_path, None), PLANS, meter)
    assert len(meter.names) == 3
    study = optuna.load_study(study_name="s", storage=open_storage(tmp_path, None))
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, *[TrialState.COMPLETE] * 3]


def test_a_journal_cut_anywhere_loses_only_what_is_behind(tmp_path: Path) -> None:
    expected = go(open_storage(tmp_path, None), PLANS)
    whole = (tmp_path / JOURNAL).read_bytes()
    for cut in range(0, len(whole), 97):
        (tmp_path / JOURNAL).write_bytes(whole[:cut])
        assert go(open_storage(tmp_path, None), PLANS) == expected


def test_a_lock_that_a_kill_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run", f"{JOURNAL}.lock").symlink_to("run/study.journal")
    Path("run", f"{JOURNAL}.lockabc.rename").touch()
    go(open_storage(Path("run"), None), PLANS)
    assert {path.name for path in Path("run").iterdir()} == {JOURNAL}


def test_a_running_trial_in_a_database_may_be_somebody_elses(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    storage = open_storage(None, url)
    open_study(storage, "s", PlanSampler())
    storage.create_new_trial(storage.get_study_id_from_name("s"))
    again = open_study(open_storage(None, url), "s", PlanSampler())
    assert [trial.state for trial in again.trials] == [TrialState.RUNNING]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"errors": [1.0]},
        {"errors": "x", "heldout_errors": None},
        {"errors": [], "heldout_errors": None},
        {"errors": [-1.0], "heldout_errors": None},
        {"errors": [1.0], "heldout_errors": [None]},
    ],
    ids=["none", "half", "text", "empty", "negative", "heldout"],
)
def test_trials_of_others_are_not_believed(attributes: Mapping[str, object]) -> None:
    storage = InMemoryStorage()
    study = open_study(storage, "s", PlanSampler())
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        unit: optuna.distributions.CategoricalDistribution(["w8g64", "w4g64"]) for unit in "ab"
    }
    study.add_trial(
        optuna.trial.create_trial(
            params={"a": "w8g64", "b": "w8g64"},
            distributions=distributions,
            values=[0.0, 0.0, 0.0],
            user_attrs=dict(attributes),
        )
    )
    meter = Meter()
    go(storage, PLANS, meter)
    assert len(meter.names) == 3


def test_opening_again_leaves_the_journal_as_it_is(tmp_path: Path) -> None:
    go(open_storage(tmp_path, None), PLANS)
    before = (tmp_path / JOURNAL).read_bytes()
    go(open_storage(tmp_path, None), PLANS)
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_optunas_verbosity_is_given_back(tmp_path: Path) -> None:
    before = optuna.logging.get_verbosity()
    go(open_storage(tmp_path, None), PLANS)
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        StorageInternalError("No space left on device\nsecond line"),
        RuntimeError("No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_storage_problems_are_one_line(error: Exception) -> None:
    with pytest.raises(OutputError) as caught, storage_problems("the study cannot be written"):
        raise error
    start = "the study cannot be written: No space left on device; make room"
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


def test_a_journal_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(OutputError, match="cannot be opened"):
        open_storage(tmp_path, None)


@pytest.mark.parametrize("line", [b"{}", b"[]", b"7", b"no", b"\xff", b'{"op_code": 99}'])
def test_a_line_that_is_not_optunas(tmp_path: Path, line: bytes) -> None:
    go(open_storage(tmp_path, None), PLANS)
    journal = tmp_path / JOURNAL
    journal.write_bytes(line + b"\n" + journal.read_bytes())
    with pytest.raises(OutputError, match="delete the file"):
        open_storage(tmp_path, None)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nosql://x", "nosql://x"),
        ("no url", "no url"),
        ("sqlite:////no/folder/a.db", "unable to open"),
        ("nosql://me:s3cret@host/x", "nosql://me:***@host/x"),
        ("\x1b[31m", "\\x1b[31m"),
    ],
)
def test_a_database_that_cannot_be_opened(url: str, shown: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_storage(None, url)
    assert shown in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert isinstance(open_storage(None, None), InMemoryStorage)


def test_storage_kinds(tmp_path: Path) -> None:
    assert isinstance(open_storage(tmp_path, None), JournalStorage)
    url = f"sqlite:///{tmp_path / 'a.db'}"
    assert not isinstance(open_storage(tmp_path, url), JournalStorage)


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("postgresql://me:s3cret@host/x", "postgresql+psycopg://me:s3cret@host/x"),
        ("postgres://host/x", "postgresql+psycopg://host/x"),
        ("postgresql+psycopg2://host/x", "postgresql+psycopg2://host/x"),
        ("sqlite:///postgres://x", "sqlite:///postgres://x"),
    ],
)
def test_postgres_goes_by_psycopg(url: str, opened: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def refuse(url: str, **options: object) -> None:
        seen.append(url)
        raise ImportError("No module named 'psycopg'")

    monkeypatch.setattr("mixq.search.study.storage.RDBStorage", refuse)
    with pytest.raises(MixqError) as caught:
        open_storage(None, url)
    assert seen == [opened]
    assert ("pip install 'mixq[postgres]'" in str(caught.value)) == url.startswith("postgres")
    assert "s3cret" not in str(caught.value)


def test_tables_that_another_process_has_just_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL refuses one of two that make a table at once; the next attempt finds it."""
    answers = [RuntimeError('relation "studies" already exists'), RuntimeError("duplicate key")]
    made = InMemoryStorage()

    def refuse(url: str, **options: object) -> BaseStorage:
        if answers:
            raise answers.pop()
        return made

    monkeypatch.setattr("mixq.search.study.storage.RDBStorage", refuse)
    monkeypatch.setattr("mixq.search.study.storage.time.sleep", lambda seconds: None)
    assert open_storage(None, "postgresql://x/y") is made
    answers += [RuntimeError("already exists")] * 4
    with pytest.raises(UsageError, match="already exists"):
        open_storage(None, "postgresql://x/y")
