"""The whole search: analyze, solve, measure, choose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mixq.errors import UsageError
from mixq.progress import Progress, silent
from mixq.rounding.rounder import Rounder
from mixq.search import story
from mixq.search.analysis import exact_costs, lay_out, round_units
from mixq.search.assemble import assemble
from mixq.search.budget import check_feasible, feasible_ranges
from mixq.search.choose import keeps
from mixq.search.equalize import prepared
from mixq.search.final_check import final_check
from mixq.search.find import find
from mixq.search.frontier import build_frontier
from mixq.search.honesty import latency_notes
from mixq.search.interactions import Auditor
from mixq.search.metric import Judge, PlanMetrics, check_direction, plan_metrics
from mixq.search.notes import (
    activation_notes,
    cache_notes,
    data_notes,
    doubt_notes,
    saturation_notes,
    stability_notes,
)
from mixq.search.reach import check_reachable
from mixq.search.refine.measuring import Measuring
from mixq.search.refine.refine import Refinement
from mixq.search.request import Request
from mixq.search.result import SearchResult
from mixq.search.sensitivities import find_sensitivity, mode_of
from mixq.search.sequence import deployed
from mixq.search.session import Session, study_name
from mixq.search.squares import Squares
from mixq.search.stability import stability
from mixq.search.study.ledger import open_ledger
from mixq.search.study.storage import open_storage
from mixq.search.subject import Subject
from mixq.search.trials import Trial
from mixq.search.weight_picture import leave_histogram
from mixq.sensitivity.device import check_device, moved
from mixq.sensitivity.metrics.resolve import resolve
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.setting import Setting
from mixq.sensitivity.whole import WholePlans

if TYPE_CHECKING:
    pass


def run(
    request: Request,
    subject: Subject,
    *,
    folder: Path | None = None,
    storage: str | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Search in a folder that the caller has locked, or in none; see `mixq.search.call.search`."""
    profile, budget = subject.profile, request.budget
    if budget.max_metric_drop is not None and subject.evaluate is None:
        raise UsageError(
            "--max-metric-drop needs labelled data, but the model came without an evaluation; "
            "let the function of --model return (model, calibration, evaluate)"
        )
    device = check_device(request.device, request.workers)
    tuning, heldout = subject.calibration.split()
    working = prepared(subject.model, tuning, request.equalize)
    model = working.model
    layout = lay_out(
        model, tuning, profile, palette=request.palette, pins=request.pins, ties=request.ties,
        batch_size=request.batch_size, threads=request.threads,
    )  # fmt: skip
    layout = layout.of(working.original_bytes, working.parameters)
    story.tell_layout(layout)
    metric = resolve(request.metric, model, tuning)
    unread = activation_notes(layout, request.palette)
    # Demands on bytes and time are refused before anything is measured; errors are measured.
    baseline_latency_s = layout.costs.baseline_latency_s
    check_feasible(layout.problem(), budget, baseline_latency_s, errors_add=False)
    offered = layout
    layout, rounding = round_units(
        model, layout, tuning, profile, folder=folder, progress=progress
    )
    story.tell_rounded(offered, layout)
    rounder, measured = rounding.rounder, rounding.unseen
    if request.samples is not None:
        measured = measured.take(request.samples)
    parts = {"calibration": measured} | ({} if heldout is None else {"heldout": heldout})
    there = moved(model, device)
    references = {part: Reference(there, data, metric) for part, data in parts.items()}
    evaluate = subject.evaluate
    judge = None if evaluate is None else Judge(rounder, evaluate)
    plain = layout.problem()
    ranges = feasible_ranges(plain, budget, baseline_latency_s, errors_add=False)
    check_reachable(plain, budget, rounder, references["calibration"], judge, ranges)
    if judge is not None and budget.max_metric_drop is not None:
        check_direction(judge.evaluate, judge.primary())  # before all the measuring
    setting = Setting(metric, folder, request.workers, device, progress)
    sensitivity = find_sensitivity(
        mode_of(request.sensitivity, request.samples), layout, rounder, measured, budget, setting
    )
    story.tell_sensitivity(sensitivity)
    leave_histogram(folder, model, layout.graph.units, sensitivity)
    problem = layout.problem(sensitivity)
    check_feasible(problem, budget, baseline_latency_s, errors_add=False)
    limits = budget.limits(problem, baseline_latency_s)
    held = "" if heldout is None else heldout.fingerprint
    name = study_name(
        problem,
        layout.model_fingerprint,
        measured.fingerprint,
        tuning.fingerprint,
        held,
        profile.fingerprint,
        metric.fingerprint,
    )
    ledger = open_ledger(
        open_storage(folder, storage), name, problem, limits,
        seed=request.seed, signed=metric.is_signed,
    )  # fmt: skip
    session = Session(WholePlans(rounder, references, request.workers), ledger, progress)
    frontier = build_frontier(problem)
    measuring = Measuring(
        lambda plan: setting.store(layout.model_fingerprint, measured, rounder, plan)
    )
    found = find(
        session, frontier, budget, limits, judge, trials=request.trials, seed=request.seed,
        sampler=request.sampler,
        refinement=Refinement(request.rounds if request.sampler == "mixq" else 0, measuring),
        ranges=ranges,
    )  # fmt: skip

    story.tell_choice(found.chosen, found.trials, found.certificate)

    def accept(candidate: Rounder, trial: Trial) -> bool:
        if evaluate is None or budget.max_metric_drop is None:
            return keeps(trial, limits)
        drop = Judge(candidate, evaluate).drop(trial.proposal.assignment)
        return keeps(trial, limits) and drop <= budget.max_metric_drop

    final = deployed(
        session, found.chosen, layout.graph, tuning,
        whole=rounding.whole, sequential=request.sequential, measured_samples=measured.samples,
        accept=accept,
    )  # fmt: skip
    story.tell_kernels(layout.costs, final.trial.proposal.assignment)
    auditor = Auditor(rounder, measured, setting, layout.model_fingerprint)
    audit = auditor.audit(problem, sensitivity, found.chosen, found.trials)
    metrics = PlanMetrics()
    if judge is not None and evaluate is not None:
        deployment = judge if final.rounder is rounder else Judge(final.rounder, evaluate)
        metrics = plan_metrics(judge, deployment, final.trial, found.plain, progress)
    stable = stability(problem, sensitivity, found.chosen, limits, seed=request.seed)
    squares = Squares.of(session, final.rounder, final.trial, found.plain)
    plan = assemble(
        name=subject.name,
        seed=request.seed,
        layout=layout,
        model_fingerprint=working.fingerprint,
        profile=profile,
        batch_size=layout.graph.batch_size,
        budget=budget.to_dict(),
        sensitivity=sensitivity,
        chosen=final.trial,
        uniform=found.uniform,
        single=found.single,
        certificate=found.certificate,
        metrics=metrics,
        stability=stable,
        squares=squares,
        notes=[
            *layout.graph.lost,
            *working.notes,
            *rounder.notes,
            *unread,
            *found.notes,
            *final.notes,
            *latency_notes(
                layout.costs,
                final.trial.proposal.assignment,
                exact_costs(layout, final.trial.proposal.assignment, profile),
            ),
            *cache_notes(model),
            *saturation_notes(final.trial),
            *stability_notes(stable, measured.samples),
            *doubt_notes(found.chosen, found.trials, limits),
            *data_notes(heldout),
        ],
    )
    weights = final.rounder.plan_weights(final.trial.proposal.assignment, working.equalization)
    if weights is not None:
        plan = plan.with_weights(weights)
    trials = tuple(final.trial if trial is found.chosen else trial for trial in found.trials)
    return SearchResult(
        plan, frontier, trials, final.trial, session.study, sensitivity=sensitivity,
        layout=layout, audit=audit, certificate=found.certificate,
    )  # fmt: skip


def checked(result: SearchResult, subject: Subject) -> SearchResult:
    """The result with its final check.

    Raises:
        PlanError: if the packed model is not what was measured, or breaks a demand.
    """
    found = final_check(result, subject.model, subject.calibration, subject.evaluate)
    found.require()
    return replace(result, check=found)
