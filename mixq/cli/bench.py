"""mixq bench: plans and files side by side in their real runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixq.cli import options
from mixq.cli.console import OutputFormat, note, progress_bar, show, show_json
from mixq.cli.inputs import load_inputs


def bench(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PLAN|FILE...", help="plan.json of searches, and files that mixq export wrote."
        ),
    ] = None,
    model: options.Model = None,
    calibration: options.Calibration = None,
    runtime: Annotated[
        str, typer.Option("--runtime", metavar="NAME", help="What plans are exported for.")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of one call.")] = 1,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Samples of one call.")
    ] = 1,
    repeat: Annotated[
        int,
        typer.Option(
            "--repeat", min=1, help="Rounds, in each of which every candidate has a turn."
        ),
    ] = 30,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the order in each round.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder for bench.json, .png and .html."),
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Run plans beside fp32 and uniform 8 and 4 bits, in the runtime, in interleaved rounds.

    Shows latency (median and 95th percentile), processor time, throughput, file size, memory of a
    fresh process, what the plan predicted, and the model's metric computed through the runtime.

    Example: **mixq bench mixq-run/plan.json --runtime onnxruntime --threads 2**
    """
    from mixq.bench.result import Settings
    from mixq.bench.targets import bench_targets
    from mixq.report.bench import make_folder, write_bench
    from mixq.report.bench_table import bench_table, faults

    settings = Settings(threads, batch_size, repeat, seed)
    if output is not None:
        make_folder(output)  # before minutes are spent
    loaded, data = load_inputs(model, calibration)
    with progress_bar() as progress:
        done = bench_targets(
            loaded, data, targets or [], settings, runtime=runtime, progress=progress
        )
    files = [] if output is None else write_bench(done, output)
    if format is OutputFormat.json:
        show_json({**done.to_json(), "files": [str(file) for file in files]})
        return
    for line in done.notes:
        note(f"note: {line}")
    show(bench_table(done), *faults(done))
    if files:
        show(f"Written to {output}: {', '.join(file.name for file in files)}")
