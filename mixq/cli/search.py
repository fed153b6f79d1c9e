"""mixq search: find a bit-allocation plan."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mixq.cli import metric_options, options, resources
from mixq.cli import resume as resuming
from mixq.cli.console import OutputFormat, note, progress_bar, show, show_json
from mixq.cli.inputs import load_inputs

if TYPE_CHECKING:
    from mixq.search.request import Equalize


def search(
    ctx: typer.Context,
    recipe: options.Recipe = None,
    hardware: options.HardwareOrRecipes = None,
    model: options.Model = None,
    calibration: options.Calibration = None,
    target_compression: Annotated[
        float | None,
        typer.Option(metavar="R", help="Bytes of the 32-bit model over bytes of all stored."),
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option(metavar="X", help="Bytes stored, in megabytes of 10^6.")
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(metavar="X", help="Predicted time of one forward pass.")
    ] = None,
    min_speedup: Annotated[
        float | None, typer.Option(metavar="R", help="Predicted, over 32 bits on the same chip.")
    ] = None,
    max_memory_mb: Annotated[
        float | None,
        typer.Option(metavar="X", help="Predicted: weights, live activations and runtime."),
    ] = None,
    max_error: Annotated[
        float | None, typer.Option(metavar="X", help="Measured output error, see --metric.")
    ] = None,
    max_metric_drop: Annotated[
        float | None,
        typer.Option(metavar="X", help="How much worse the headline metric may get."),
    ] = None,
    bits: options.Bits = None,
    group_sizes: options.GroupSizes = None,
    grids: options.Grids = None,
    method: options.RoundingMethod = None,
    activations: options.Activations = None,
    half: options.Half = None,
    pin: options.Pins = None,
    tie: options.Ties = None,
    sensitivity: options.Sensitivity = options.SensitivityMode.auto,
    metric: metric_options.Metric = "auto",
    outputs: metric_options.Outputs = None,
    trials: Annotated[
        int,
        typer.Option(min=1, help="Plans of least error to measure beside the uniform ones."),
    ] = 8,
    rounds: Annotated[
        int,
        typer.Option(
            min=0,
            help="How often at most the best plan is refined: single changes are measured with "
            "the rest of the plan in place.",
        ),
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same plan.")] = 0,
    workers: resources.Workers = 1,
    device: resources.Device = "cpu",
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database for the Optuna study, not the folder's journal: postgresql://... or "
            "sqlite:///study.db. The same command on many machines shares the work.",
        ),
    ] = None,
    sampler: options.Sampler = options.SamplerName.mixq,
    batch_size: options.BatchSizeOrRecipes = None,
    threads: options.Threads = None,
    samples: options.Samples = None,
    sequential: options.Sequential = None,
    equalize: options.Equalization = "none",
    check: options.Check = None,
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

    optuna-dashboard mixq-run/study.journal shows what was measured (pip install optuna-dashboard).

    For example:

      mixq search --target-compression 6 --hardware intel_cpu

      mixq search --recipe mobile_device --model my_pkg.models:load

      mixq search --model my_pkg.models:load --max-size-mb 5 --hardware arm_mobile

      mixq search --model ./minilm --calibration texts.txt --max-error 0.01 --hardware host.toml

      mixq search --resume --pin 'head.*=8'

    The last one asks what a pin would change: all else is taken from the run in the folder, and
    only whole plans are measured; see mixq plan diff.
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
    palette = options.parse_palette(bits, group_sizes, grids, method, activations, half, base)
    pin = resuming.with_earlier_pins(ctx, pin)
    pins = options.parse_pins(pin)
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
    loaded, data = load_inputs(model, calibration)
    subject = Subject(loaded.model, data, profile, loaded.evaluate, loaded.name)
    with run_folder(output, subject.identity, overwrite=overwrite, request=asked) as folder:
        with progress_bar() as progress:
            result = run(request, subject, folder=folder.path, storage=storage, progress=progress)
        if check or (check is None and recipe is not None):
            result = checked(result, subject)
        files = write_results(result, folder)
    if format is OutputFormat.json:
        found = {} if result.check is None else {"check": result.check.to_dict()}
        if result.audit is not None:
            found["audit"] = result.audit.to_json()
        show_json({**result.plan.to_json(), **found, "files": [str(file) for file in files]})
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
