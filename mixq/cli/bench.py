"""mixq bench: plans and files side by side in their real runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixq.cli import complete, options
from mixq.cli.console import OutputFormat, note, progress_bar, show, show_json
from mixq.cli.inputs import check_demo, load_inputs
from mixq.errors import UsageError

if TYPE_CHECKING:
    from mixq.bench.suite_file import SuiteFile

RUNTIME = "onnxruntime"


def bench(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PLAN|FILE...", help="plan.json of searches, and files that mixq export wrote."
        ),
    ] = None,
    model: options.Model = None,
    trust_remote_code: options.TrustRemoteCode = False,
    calibration: options.Calibration = None,
    suite: Annotated[
        Path | None,
        typer.Option(
            "--suite",
            metavar="FILE.toml",
            help="In place of plans: every method on every model and data set of a file, see "
            "docs/bench.md. The options below go before what it says.",
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            autocompletion=complete.runtimes,
            metavar="NAME",
            help="What plans are exported for, as in mixq export. Default: onnxruntime.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of one call. Default: 1.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Samples of one call. Default: 1.")
    ] = None,
    sequence: Annotated[
        int | None,
        typer.Option(
            "--sequence", min=1, help="Tokens of each sample, for language models. Default: all."
        ),
    ] = None,
    repeat: Annotated[
        int | None,
        typer.Option(
            "--repeat",
            min=1,
            help="Rounds, in each of which every candidate has a turn. Default: 30.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of the order in each round. Default: 0.")
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            autocompletion=complete.hardware,
            metavar="NAME|FILE.toml",
            help="Predict every row for this chip and these options, such as the calibrated "
            "'host'. Default: what the plans say of themselves.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder for bench.json, .png and .html."),
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Run plans beside fp32, uniform 8 and uniform 4 bits, in the runtime, in interleaved rounds.

    Shows file size, latency (median and 95th percentile), processor time, throughput, all of it
    beside fp32's and beside what the plan predicted, the memory of a fresh process, and the
    model's metric computed through the runtime.
    """
    given = {
        name: value
        for name, value in (
            ("threads", threads),
            ("batch_size", batch_size),
            ("repeat", repeat),
            ("sequence", sequence),
            ("seed", seed),
        )
        if value is not None
    }
    if suite is None:
        _bench(
            targets or [],
            model,
            trust_remote_code,
            calibration,
            runtime or RUNTIME,
            given,
            hardware,
            output,
            format,
        )
        return
    if targets or model or trust_remote_code or calibration or sequence or hardware:
        raise UsageError(
            "--suite names its own models and plans; leave out PLAN|FILE, --model, --calibration, "
            "--sequence and --hardware"
        )
    from mixq.bench.suite_file import load_suite

    file = load_suite(suite)
    _suite(file.model_copy(update={**given, "runtime": runtime or file.runtime}), output, format)


def _bench(
    targets: list[Path],
    model: str | None,
    trust_remote_code: bool,
    calibration: str | None,
    runtime: str,
    given: dict[str, int],
    hardware: str | None,
    output: Path | None,
    format: OutputFormat,
) -> None:
    from mixq.bench.result import Settings
    from mixq.bench.targets import bench_targets, check_targets, is_plan
    from mixq.files import make_folder
    from mixq.plan import Plan
    from mixq.profiles import load
    from mixq.report.bench import write_bench
    from mixq.report.bench_table import bench_table, faults

    check_targets(targets, runtime)
    if output is not None:
        make_folder(output)  # before minutes are spent
    profile = None if hardware is None else load(hardware)
    loaded, data = load_inputs(model, calibration, trust_remote_code=trust_remote_code)
    for path in targets:
        if is_plan(path):
            check_demo(Plan.load(path), model, loaded)
    with progress_bar() as progress:
        done = bench_targets(
            loaded, data, targets, Settings(**given), runtime=runtime, hardware=profile,
            progress=progress,
        )  # fmt: skip
    files = [] if output is None else write_bench(done, output)
    if format is OutputFormat.json:
        show_json({**done.to_json(), "files": [str(file) for file in files]})
        return
    for line in done.notes:
        note(f"note: {line}")
    show(bench_table(done), *faults(done), *_written(files))


def _suite(file: SuiteFile, output: Path | None, format: OutputFormat) -> None:
    from mixq.bench.suite import run_suite
    from mixq.files import make_folder
    from mixq.report.bench import suite_json, write_suite
    from mixq.report.bench_table import suite_faults, suite_table

    if output is not None:
        make_folder(output)
    with progress_bar() as progress:
        done = run_suite(file, progress)
    files = [] if output is None else write_suite(done, output)
    if format is OutputFormat.json:
        show_json({**suite_json(done), "files": [str(path) for path in files]})
        return
    show(suite_table(done), *suite_faults(done), *_written(files))


def _written(files: list[Path]) -> list[str]:
    if not files:
        return []
    return [f"Written to {files[0].parent}: {', '.join(file.name for file in files)}"]
