"""mixq search: find a bit-allocation plan."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, cast

import typer

from mixq.cli import (
    demand_options,
    format_options,
    measuring_options,
    metric_options,
    options,
    resources,
    unit_options,
)
from mixq.cli import resume as resuming
from mixq.cli.command import resumable
from mixq.cli.console import OutputFormat, note, progress_bar, show, show_json
from mixq.cli.inputs import load_inputs

if TYPE_CHECKING:
    from mixq.search.request import Equalize


def search(
    ctx: typer.Context,
    recipe: options.Recipe = None,
    hardware: options.HardwareOrRecipes = None,
    model: options.Model = None,
    trust_remote_code: options.TrustRemoteCode = False,
    calibration: options.Calibration = None,
    target_compression: demand_options.TargetCompression = None,
    max_size_mb: demand_options.MaxSizeMb = None,
    max_latency_ms: demand_options.MaxLatencyMs = None,
    min_speedup: demand_options.MinSpeedup = None,
    max_memory_mb: demand_options.MaxMemoryMb = None,
    max_error: demand_options.MaxError = None,
    max_metric_drop: demand_options.MaxMetricDrop = None,
    bits: format_options.Bits = None,
    group_sizes: format_options.GroupSizes = None,
    grids: format_options.Grids = None,
    method: format_options.RoundingMethod = None,
    activations: format_options.Activations = None,
    half: format_options.Half = None,
    pin: unit_options.Pins = None,
    tie: unit_options.Ties = None,
    sensitivity: measuring_options.Sensitivity = measuring_options.SensitivityMode.auto,
    metric: metric_options.Metric = "auto",
    outputs: metric_options.Outputs = None,
    trials: measuring_options.Trials = 8,
    rounds: measuring_options.Rounds = 3,
    seed: measuring_options.Seed = 0,
    workers: resources.Workers = 1,
    device: resources.Device = "cpu",
    storage: measuring_options.Storage = None,
    sampler: measuring_options.Sampler = measuring_options.SamplerName.mixq,
    batch_size: options.BatchSizeOrRecipes = None,
    threads: options.Threads = None,
    samples: measuring_options.Samples = None,
    sequential: measuring_options.Sequential = None,
    equalize: measuring_options.Equalization = "none",
    check: measuring_options.Check = None,
    output: resuming.Output = options.DEFAULT_FOLDER,
    resume: resuming.Resume = False,
    overwrite: options.Overwrite = False,
    format: options.Format = OutputFormat.table,
) -> None:
    """Find the plan of least output error that meets every demand.

    Measures what quantizing each layer alone does to the output, predicts bytes and time on the
    chip, solves the allocation exactly, measures the best plans whole, refines the best by what
    single changes do around it, and never returns one that is worse than one width or one format
    for all of no more bytes. If only an error or a metric drop is demanded, finds the smallest
    plan instead. Interrupted, the same command goes on from where it was, and so does
    mixq search --resume.

    Everything is kept in the folder of --output: plan.json and its weights, sensitivities, the
    frontier, plots, and the Optuna study, which optuna-dashboard mixq-run/study.journal shows
    (pip install optuna-dashboard). --resume --pin 'head.*=8' asks what a pin would change: all
    else is taken from the run in the folder, and only whole plans are measured; see mixq plan
    diff.
    """
    from mixq.search.recipe import Recipe
    from mixq.search.recipe import load as load_recipe
    from mixq.search.request import Request
    from mixq.sensitivity.metrics.choice import MetricChoice

    # What can be refused is refused before torch and the model are loaded, which takes a while.
    base = Recipe() if recipe is None else load_recipe(recipe)
    budget = base.demands(
        target_compression=target_compression,
        max_size_mb=max_size_mb,
        max_latency_ms=max_latency_ms,
        min_speedup=min_speedup,
        max_memory_mb=max_memory_mb,
        max_error=max_error,
        max_metric_drop=max_metric_drop,
    )
    palette = format_options.parse_palette(
        bits, group_sizes, grids, method, activations, half, base
    )
    pin = resuming.with_earlier_pins(ctx, pin)
    pins = unit_options.parse_pins(pin)
    request = Request(
        budget, palette, pins, tie or (), trials, seed, batch_size or base.batch_size or 1,
        threads or base.threads, samples or base.samples, sequential,
        cast("Equalize", equalize), sensitivity.value, workers, device,
        MetricChoice(metric, metric_options.parse_outputs(outputs)), rounds,
        sampler.value,
    )  # fmt: skip
    profile = base.profile(hardware)
    asked = resuming.requested(ctx) | ({"pin": pin} if pin else {})
    if resume:
        resuming.say_what_is_taken_up(ctx)
    from mixq.report.folder import write_results
    from mixq.report.tables import plan_table, summary
    from mixq.search.folder import run_folder
    from mixq.search.run import checked, run
    from mixq.search.subject import Subject

    resources.check_resources(workers, device)
    loaded, data = load_inputs(model, calibration, trust_remote_code=trust_remote_code)
    subject = Subject(loaded.model, data, profile, loaded.evaluate, loaded.name)
    with (
        resumable(output),
        run_folder(output, subject.identity, overwrite=overwrite, request=asked) as folder,
    ):
        with progress_bar() as progress:
            result = run(request, subject, folder=folder.path, storage=storage, progress=progress)
        if check or (check is None and recipe is not None):
            result = checked(result, subject)
        files = write_results(result, folder)
    if format is OutputFormat.json:
        show_json({**result.to_dict(), "files": [str(file) for file in files]})
        return
    solve_s = None if result.certificate is None else result.certificate.solve_s
    show(plan_table(result.plan), summary(result.plan, solve_s))
    if result.audit is not None:
        show(f"audit: {result.audit.sentence}")
    for remark in result.plan.notes:
        note(f"note: {remark}")
    for line in () if result.check is None else result.check.lines:
        show(f"check: {line}")
    show(f"Written to {output}: {', '.join(file.name for file in files)}")
    show(f"mixq report {shlex.quote(str(output))} makes one page of it")
