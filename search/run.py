"""The whole search: analyze, solve, measure, choose; `mixq.search(...)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mixq.calibration import Calibration
from mixq.errors import UsageError
from mixq.formats import Format
from mixq.graph.state import fingerprint
from mixq.plan import Plan
from mixq.profiles import Profile
from mixq.profiles import load as load_profile
from mixq.progress import Progress, silent, track
from mixq.search.analysis import Layout, lay_out, measure_sensitivity
from mixq.search.assemble import assemble
from mixq.search.budget import check_feasible
from mixq.search.find import find
from mixq.search.folder import run_folder
from mixq.search.frontier import Frontier, build_frontier
from mixq.search.metric import Judge
from mixq.search.request import DEFAULT_BITS, DEFAULT_TRIALS, Request, demands
from mixq.search.session import Session, study_name
from mixq.search.storage import open_storage
from mixq.search.study import ProposalSampler, open_study
from mixq.search.trials import Trial
from mixq.sensitivity.compare import Evaluate
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from optuna.study import Study
    from torch import nn


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and everything that it stands on.

    Attributes:
        plan: the chosen plan.
        frontier: what nothing beats on (bytes, added error).
        trials: every measured plan, uniform ones first.
        chosen: the trial that became the plan.
        study: the Optuna study that holds the trials.
        sensitivity: output error of every (unit, format) alone.
        layout: the traced model, its candidate formats and their costs.
    """

    plan: Plan
    frontier: Frontier
    trials: tuple[Trial, ...]
    chosen: Trial
    study: Study
    sensitivity: SensitivityTable
    layout: Layout


def search(
    model: nn.Module,
    calibration: object,
    *,
    hardware: str | Profile,
    target_compression: float | None = None,
    max_size_mb: float | None = None,
    max_latency_ms: float | None = None,
    min_speedup: float | None = None,
    max_memory_mb: float | None = None,
    max_error: float | None = None,
    max_metric_drop: float | None = None,
    bits: Sequence[int] = DEFAULT_BITS,
    pin: Mapping[str, int] | None = None,
    tie: Sequence[str] = (),
    evaluate: Evaluate | None = None,
    trials: int = DEFAULT_TRIALS,
    seed: int = 0,
    batch_size: int = 1,
    threads: int | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    storage: str | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Find the plan of least output error that meets every demand.

    If only an error or a metric drop is demanded, find the smallest plan instead. The model is
    not changed. The last quarter of the calibration samples is held out: it judges plans and is
    never searched on. A plan that comes back is never worse, on held-out data, than a uniform
    plan of no more bytes.

    Args:
        model: any module with parameters; measured in eval mode.
        calibration: a tensor, or a list of batches (tensors, tuples or dicts of tensors).
        hardware: name of a shipped profile, a TOML file, or a profile.
        target_compression: bytes of the 32-bit model over bytes of everything stored.
        max_size_mb: of everything stored, in megabytes of 10^6 bytes.
        max_latency_ms: predicted, of one forward pass.
        min_speedup: predicted, over the 32-bit model on the same chip.
        max_memory_mb: predicted: weights, live activations and runtime.
        max_error: measured mean squared output error.
        max_metric_drop: how much worse `evaluate`'s headline metric may get.
        bits: widths to choose from.
        pin: unit name pattern to width.
        tie: patterns; the units that match one take one format together.
        evaluate: metrics of a model on labelled data; its attribute `primary` names the headline
            metric, `higher_is_better` (default True) says which way is better.
        trials: plans of least added error to measure beside the uniform ones.
        seed: the same seed gives the same plan.
        batch_size: samples per forward pass of the predicted workload.
        threads: of the predicted workload; by default the profile's.
        name: of the model, for the plan; by default its class.
        folder: where measurements and the study are kept, so that a run can go on; it is locked
            meanwhile, and refused if it holds another model's or chip's run.
        storage: database URL for the study instead of the folder's journal.
        progress: is told how far it is.

    Raises:
        InfeasibleError: if no plan meets all demands, with what is feasible.
        MixqError: for anything else that is refused; nothing measured is lost.
    """
    budget = demands(
        target_compression=target_compression, max_size_mb=max_size_mb,
        max_latency_ms=max_latency_ms, min_speedup=min_speedup, max_memory_mb=max_memory_mb,
        max_error=max_error, max_metric_drop=max_metric_drop,
    )  # fmt: skip
    request = Request(budget, tuple(bits), pin or {}, tie, trials, seed, batch_size, threads)
    profile = hardware if isinstance(hardware, Profile) else load_profile(hardware)
    subject = Subject(
        model, Calibration.of(calibration), profile, evaluate, name or type(model).__name__
    )
    if folder is None:
        return run(request, subject, storage=storage, progress=progress)
    with run_folder(folder, subject.identity) as held:
        return run(request, subject, folder=held.path, storage=storage, progress=progress)


@dataclass(frozen=True)
class Subject:
    """What is searched: a model, the data it is measured on, and the chip it is for.

    Attributes:
        name: of the model, for the plan.
    """

    model: nn.Module
    calibration: Calibration
    profile: Profile
    evaluate: Evaluate | None
    name: str

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a run folder must be of, to go on in it."""
        return {"model": fingerprint(self.model), "hardware": self.profile.fingerprint}


def run(
    request: Request,
    subject: Subject,
    *,
    folder: Path | None = None,
    storage: str | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Search in a folder that the caller has locked, or in none; see `search`."""
    model, profile, budget = subject.model, subject.profile, request.budget
    if budget.max_metric_drop is not None and subject.evaluate is None:
        raise UsageError(
            "--max-metric-drop needs labelled data, but the model came without an evaluation; "
            "let the function of --model return (model, calibration, evaluate)"
        )
    tuning, heldout = subject.calibration.split()
    layout = lay_out(
        model, tuning, profile, bits=request.bits, pins=request.pins, ties=request.ties,
        batch_size=request.batch_size, threads=request.threads,
    )  # fmt: skip
    # Demands on bytes and time are refused before anything is measured; errors are measured.
    baseline_latency_s = layout.costs.baseline_latency_s
    check_feasible(layout.problem(), replace(budget, max_error=None), baseline_latency_s)
    parts = {"calibration": tuning} | ({} if heldout is None else {"heldout": heldout})
    references = {part: Reference(model, data) for part, data in parts.items()}
    sensitivity = measure_sensitivity(
        model, layout, tuning, references["calibration"], folder=folder, progress=progress
    )
    problem = layout.problem(sensitivity)
    sampler = ProposalSampler()
    held = "" if heldout is None else heldout.fingerprint
    name = study_name(
        problem, layout.model_fingerprint, tuning.fingerprint, held, profile.fingerprint
    )
    study = open_study(open_storage(folder, storage), name, sampler)
    session = Session(model, layout.graph.units, references, problem, study, sampler, progress)
    frontier = build_frontier(problem)
    evaluate = subject.evaluate
    judge = None if evaluate is None else Judge(model, layout.graph.units, evaluate)
    found = find(
        session, frontier, budget, budget.limits(problem, baseline_latency_s), judge,
        trials=request.trials, seed=request.seed,
    )  # fmt: skip
    if judge is not None:  # each once; the plan finds them known
        judged = [{}, *(t.proposal.assignment for t in (*found.uniform, found.chosen))]
        for assignment in track(judged, "evaluating on labelled data", len(judged), progress):
            judge.metrics(assignment)
    plan = assemble(
        name=subject.name,
        seed=request.seed,
        layout=layout,
        profile=profile,
        batch_size=layout.graph.batch_size,
        budget=budget.to_dict(),
        sensitivity=sensitivity,
        chosen=found.chosen,
        uniform=found.uniform,
        certificate=found.certificate,
        judge=judge,
        notes=[
            *layout.graph.lost,
            *found.notes,
            *_latency_notes(layout, found.chosen),
            *_data_notes(heldout),
        ],
    )
    return SearchResult(
        plan, frontier, found.trials, found.chosen, study, sensitivity=sensitivity, layout=layout
    )


def _latency_notes(layout: Layout, chosen: Trial) -> list[str]:
    """What to say where the plan is smaller but not faster."""
    costs, assignment = layout.costs, chosen.proposal.assignment
    latency_s, baseline_s = chosen.totals.latency_s, costs.baseline_latency_s
    if latency_s < baseline_s:
        return []
    slower = sum(
        costs.cost(unit, fmt).latency_s > costs.cost(unit, Format(32)).latency_s
        for unit, fmt in assignment.items()
    )
    return [
        f"no speed-up is predicted: {latency_s * 1e3:.3g} ms against {baseline_s * 1e3:.3g} ms in "
        f"32 bits; {slower} of {len(assignment)} layers are slower than in 32 bits, see kernel"
    ]


def _data_notes(heldout: Calibration | None) -> list[str]:
    if heldout is not None:
        return []
    return ["one calibration sample cannot be split, so nothing is held out to judge the plan by"]
