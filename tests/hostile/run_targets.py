"""Files that mixq writes itself and reads again: plans, artifacts, tables, stores, runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixq.artifact import load as load_artifact
from mixq.artifact import save as save_artifact
from mixq.calibration import Calibration
from mixq.errors import MixqError
from mixq.files import json_text
from mixq.formats import Format
from mixq.plan import Plan
from mixq.plan_check import check_plan
from mixq.report.records import Record, Records
from mixq.rounding.store import RoundedStore
from mixq.search.audit import Audit, AuditedPlan, Interaction
from mixq.search.folder import request_of
from mixq.search.study.storage import open_storage, storage_problems
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable
from mixq.training.checkpoint import FILE, Checkpoint
from mixq.training.trainer import Look, State

from ..plans import GOLDEN, calibrated_plan_for, plan_for
from .containers import tensor_file
from .mutate import json_lines, json_text as json_tree
from .target import Target

X = torch.rand(8, 32, generator=torch.Generator().manual_seed(1)) - 0.5
FORMATS = (Format(4, 32), Format(8), Format(2, 16), Format(32))


@cache
def model() -> nn.Module:
    """Two linear layers and a norm, so that files have units, buffers and plain tensors."""
    torch.manual_seed(0)
    layers = (
        nn.Linear(32, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.Linear(16, 4),
    )
    return nn.Sequential(*layers).eval()


@cache
def calibrated() -> Plan:
    """A plan with codes of its own."""
    formats = (Format(4, 32, method="gptq"), Format(8, activation="static"), Format(2, 16))
    return calibrated_plan_for(model(), Calibration.of([X]), *formats)


def _finite(value: Any) -> None:
    if isinstance(value, float):
        assert math.isfinite(value), value
    elif isinstance(value, dict):
        for item in value.values():
            _finite(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _finite(item)


def _plan_seeds(_: Path) -> list[bytes]:
    plain = json_text(plan_for(model(), *FORMATS).to_json()).encode()
    return [GOLDEN.read_bytes(), plain, json_text(calibrated().to_json()).encode()]


def _check_plan(plan: Plan, _: Path) -> None:
    written = plan.to_json()
    _finite(written)
    assert Plan.from_json(json_text(written)) == plan
    _or_refused(lambda: check_plan(plan))
    assert plan.assignment.keys() == plan.layers.keys()


def _or_refused(act: Callable[[], object]) -> None:
    try:
        act()
    except MixqError as error:
        assert str(error).isprintable(), ascii(str(error))
        assert len(str(error)) < 4000


def _weights_seeds(folder: Path) -> list[bytes]:
    calibrated().save(folder / "plan.json")
    return [(folder / "plan.weights.safetensors").read_bytes()]


def _read_weights(path: Path) -> nn.Module:
    """Applies the plan that names whatever checksum the file claims to have."""
    plan = Plan.load(path.with_name("plan.json"))
    assert plan.weights is not None
    claimed = re.search(rb'"mixq":"([0-9a-f]{64}) ', path.read_bytes())
    sha256 = claimed[1].decode() if claimed else plan.weights.sha256
    info = plan.weights.model_copy(update={"sha256": sha256})
    named = plan.model_copy(update={"weights": info})
    named._folder = plan._folder
    return named.apply(model())


def _check_model(applied: nn.Module, path: Path) -> None:
    with torch.no_grad():
        output = applied(X)
    assert output.shape == (8, 4)
    again = path.with_name("again.safetensors")
    save_artifact(applied, again)
    loaded = load_artifact(again, model())
    with torch.no_grad():
        assert torch.equal(loaded(X).nan_to_num(7), output.nan_to_num(7))


def _artifact_seeds(folder: Path) -> list[bytes]:
    found = []
    for plan in (calibrated(), plan_for(model(), *FORMATS)):
        save_artifact(plan.apply(model()), folder / "seed.safetensors")
        found.append((folder / "seed.safetensors").read_bytes())
    return found


def _numbers() -> dict[str, Tensor]:
    return {"a": torch.zeros(3), "b": torch.zeros(2, 2)}


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    numbers = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    state = State(
        step=5,
        looks=[Look(0, 2.0), Look(5, 1.0)],
        best={name: t.clone() for name, t in numbers.items()},
        moments={name: (t.clone(), t.clone() + 1) for name, t in numbers.items()},
        broken=False,
    )
    Checkpoint(folder, "this run").keep(state, numbers)
    return [(folder / FILE).read_bytes()]


def _read_checkpoint(path: Path) -> tuple[State, dict[str, Tensor]]:
    numbers = _numbers()
    return Checkpoint(path.parent, "this run").resume(numbers), numbers


def _check_checkpoint(found: tuple[State, dict[str, Tensor]], path: Path) -> None:
    state, numbers = found
    assert state.looks
    for look in state.looks:
        assert math.isfinite(look.loss)
        assert 0 <= look.step <= state.step
    for name, empty in _numbers().items():
        for tensor in (numbers[name], state.best[name], *state.moments[name]):
            assert tensor.shape == empty.shape
            assert tensor.dtype == empty.dtype
            assert bool(tensor.isfinite().all())
        assert bool((state.moments[name][1] >= 0).all())
    Checkpoint(path.parent, "this run").keep(state, numbers)
    again, others = _read_checkpoint(path)
    assert again.looks == state.looks
    assert all(torch.equal(others[name], numbers[name]) for name in numbers)


@cache
def _rounded() -> tuple[str, Format, Tensor]:
    unit = next(iter(calibrated().layers))
    return unit, calibrated().assignment[unit], dict(model().named_parameters())[unit]


def _rounded_path(folder: Path) -> Path:
    path = RoundedStore(folder, "key")._path(_rounded()[0], _rounded()[1])
    assert path is not None
    return path


def _rounded_seeds(folder: Path) -> list[bytes]:
    plan, (unit, _, _) = calibrated(), _rounded()
    assert plan._held is not None
    RoundedStore(folder, "key").put(unit, plan._held.units[unit])
    return [_rounded_path(folder).read_bytes()]


def _read_rounded(path: Path) -> object:
    unit, fmt, weight = _rounded()
    return RoundedStore(path.parents[1], "key").get(unit, fmt, weight)


def _check_rounded(packed: Any, _: Path) -> None:
    if packed is not None:
        assert packed.format == _rounded()[1]
        assert packed.unpacked().shape == _rounded()[2].shape


def _table_seeds(folder: Path) -> list[bytes]:
    entries = {
        "a.weight": {
            Format(8): Estimate(0.5, 0.1, 3, (0.25, 0.5, 0.75), 0.1),
            Format(4, 32): Estimate(0.75, 0.0, 3),
        },
        "b": {Format(2, 16): Estimate(1e-9, 0.0, 3)},
    }
    table = SensitivityTable(entries, 2.0, "", 3, "m", "c", refused={("b", "w8"): "too large"})
    table.save(folder / "seed.json")
    return [(folder / "seed.json").read_bytes(), json.dumps(table.to_json()).encode()]


def _check_table(table: SensitivityTable, path: Path) -> None:
    _finite(table.to_json())
    again = path.with_name("again.json")
    table.save(again)
    assert SensitivityTable.load(again) == table
    table.save_csv(path.with_name("again.csv"))


def _store_name(folder: Path) -> Path:
    path = Store(folder, "key")._path
    assert path is not None
    return path


def _store_seeds(folder: Path) -> list[bytes]:
    store = Store(folder, "key")
    store.put("a.weight", "w8", [0.5, 0.25, 0.0])
    store.put("b", "w4g32", [1e-9])
    return [_store_name(folder).read_bytes()]


def _check_store(store: Store, path: Path) -> None:
    store.put("after", "w8", [1.0])
    again = Store(path.parent, "key")
    assert again._known == store._known
    assert all(math.isfinite(e) and e >= 0 for errors in again._known.values() for e in errors)


def _frontier_seeds(_: Path) -> list[bytes]:
    kinds = ("frontier", "trial", "uniform", "chosen")
    plans = [
        Record(
            name=f"{kind} {i}", kind=kind, weight_bytes=100 + i, compression=4.0, error=0.5,
            latency_s=1e-3, measured=kind != "frontier", detail="held-out", formats=[0, 1],
        )
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    records = Records(
        exact=True, frontier_points=9, units=["a", "b"], formats=["w8", "w4g32"], plans=plans
    )
    return [json.dumps(records.model_dump(mode="json")).encode()]


def _check_frontier(records: Records, path: Path) -> None:
    again = path.with_name("again.json")
    records.save(again)
    assert Records.load(again) == records
    records.save_csv(path.with_name("again.csv"))
    for point, plan in zip(records.points(), records.plans, strict=True):
        assert point.name == plan.name
        assert len(plan.formats) in (0, len(records.units))
        assert all(0 <= position < len(records.formats) for position in plan.formats)


def _audit_seeds(_: Path) -> list[bytes]:
    audit = Audit(
        metric="mse",
        chosen="best",
        plans=(AuditedPlan("best", "tilted", 100, 0.5, 0.75, 0.1),
               AuditedPlan("w8 everywhere", "uniform", 200, 0.25, 0.25, 0.0)),
        samples=5,
        layers=("a", "b"),
        interactions=(Interaction("a", "b", 1.0, 1.5, 0.5, 0.1),),
    )  # fmt: skip
    return [json.dumps(asdict(audit)).encode()]


def _check_audit(audit: Audit, path: Path) -> None:
    _finite(audit.to_json())
    assert audit.sentence.isprintable()
    again = path.with_name("again.json")
    audit.save(again)
    assert Audit.load(again) == audit


def _run_seeds(_: Path) -> list[bytes]:
    run = {
        "schema_version": 1,
        "identity": {"model": "sha256:0", "hardware": "intel_cpu"},
        "state": "running",
        "request": {"target_compression": 6.0, "model": "demo", "pin": ["a=8"], "check": False},
    }
    return [json.dumps(run).encode()]


@cache
def _options() -> dict[str, Any]:
    """The options of `mixq search`, as typer knows them."""
    import typer

    from mixq.cli.app import app

    command: Any = typer.main.get_command(app)
    return {str(one.name): one for one in command.commands["search"].params}


def _read_run(path: Path) -> dict[str, object]:
    from mixq.cli.resume import _checked

    request, options = request_of(path.parent), _options()
    return {name: _checked(path.parent, name, value, options) for name, value in request.items()}


def _journal_seeds(folder: Path) -> list[bytes]:
    import optuna

    from mixq.search.study.storage import quiet

    with quiet():
        study = optuna.create_study(storage=open_storage(folder, None), study_name="s")
        for value in (1.0, 2.0):
            trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
            trial.set_user_attr("errors", [value])
            study.tell(trial, value)
        study.ask()
    return [(folder / "study.journal").read_bytes()]


def _read_journal(path: Path) -> int:
    storage = open_storage(path.parent, None)
    with storage_problems("study.journal cannot be read"):
        studies = storage.get_all_studies()
        return sum(len(storage.get_all_trials(study._study_id)) for study in studies)


RUN_TARGETS = (
    Target("plan", "plan.json", _plan_seeds, json_tree, Plan.load, _check_plan),
    Target("plan weights", "plan.weights.safetensors", _weights_seeds, tensor_file, _read_weights,
           _check_model, cost=6),
    Target("artifact", "a.mixq.safetensors", _artifact_seeds, tensor_file,
           lambda path: load_artifact(path, model()), _check_model, cost=6),
    Target("checkpoint of training", FILE, _checkpoint_seeds, tensor_file, _read_checkpoint,
           _check_checkpoint, writes=True),
    Target("rounded weights", "rounded-key/unit.safetensors", _rounded_seeds, tensor_file,
           _read_rounded, _check_rounded),
    Target("sensitivity table", "sensitivity.json", _table_seeds, json_tree,
           SensitivityTable.load, _check_table),
    Target("measurements", "measurements.jsonl", _store_seeds, json_lines,
           lambda path: Store(path.parent, "key"), _check_store, writes=True),
    Target("frontier", "frontier.json", _frontier_seeds, json_tree, Records.load,
           _check_frontier),
    Target("audit", "audit.json", _audit_seeds, json_tree, Audit.load, _check_audit),
    Target("run", "run.json", _run_seeds, json_tree, _read_run, named="run.json"),
    Target("study journal", "study.journal", _journal_seeds, json_lines, _read_journal,
           writes=True),
)  # fmt: skip
"""Two of them have names that depend on what they hold; `all_targets` puts those in."""


def placed(target: Target, folder: Path) -> Target:
    """The target with the name that its file really has in a folder."""
    from dataclasses import replace

    if target.name == "rounded weights":
        return replace(target, file=str(_rounded_path(folder).relative_to(folder)))
    if target.name == "measurements":
        return replace(target, file=_store_name(folder).name)
    return target
