"""mixq hardware: the chips that mixq knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixq.cli import complete, options, predict
from mixq.cli.command import command, group
from mixq.cli.console import OutputFormat, note, progress_bar, show, show_json
from mixq.cli.examples import examples

app = typer.Typer(
    no_args_is_help=True,
    help="The chips that mixq knows, and their kernels.",
    epilog=examples("hardware"),
)
app.callback()(group)
app.command("predict", epilog=examples("hardware predict"))(command(predict.predict))


@app.command("list", epilog=examples("hardware list"))
@command
def list_profiles(
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also chips that only occur in published measurements."),
    ] = False,
    format: options.Format = OutputFormat.table,
) -> None:
    """List the shipped hardware profiles, and `host` once this machine was calibrated."""
    from mixq.errors import ProfileError
    from mixq.profiles import available, load
    from mixq.profiles.place import HOST, host_path
    from mixq.report.hardware import profiles_table

    profiles = [load(name) for name in available(published=everything)]
    if host_path().is_file():
        try:
            profiles.append(load(HOST))
        except ProfileError as error:  # the others are there all the same
            note(f"note: {error}")
    if format is OutputFormat.json:
        facts = ("name", "description", "default_runtime", "default_threads", "searchable")
        show_json({"profiles": [{fact: getattr(p, fact) for fact in facts} for p in profiles]})
        return
    show(profiles_table(profiles))


@app.command("show", epilog=examples("hardware show"))
@command
def show_profile(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE.toml",
            help="A shipped profile or your own file.",
            autocompletion=complete.hardware,
        ),
    ],
    runtime: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the kernels of this runtime.")
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Show a profile: rates, bandwidths, and the kernels of each runtime."""
    from mixq.profiles import load
    from mixq.report.hardware import kernels_tables, profile_facts, profile_json

    profile = load(name)
    if format is OutputFormat.json:
        show_json(profile_json(profile, runtime))
        return
    show(profile_facts(profile), *kernels_tables(profile, runtime))


@app.command("calibrate", epilog=examples("hardware calibrate"))
@command
def calibrate_host(
    device: Annotated[
        str, typer.Option("--device", metavar="cpu|cuda", help="What is measured.")
    ] = "cpu",
    threads: Annotated[
        int, typer.Option("--threads", help="Threads of one call; predictions are for as many.")
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The profile file; by default where --hardware host looks."),
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Measure this machine's kernels and write its profile, `--hardware host`."""
    from mixq.calibrate.calibrate import calibrate
    from mixq.calibrate.cuda import calibrate_cuda
    from mixq.errors import UsageError
    from mixq.files import make_folder, write_text_atomic
    from mixq.profiles.place import host_path
    from mixq.report.hardware import calibration_json, calibration_table
    from mixq.workshop import sweep

    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device is {device[:40]!r}, but it takes cpu or cuda")
    target = host_path() if output is None else output
    with progress_bar() as progress:
        measured = calibrate if device == "cpu" else calibrate_cuda
        done = measured(threads, progress=progress)
    if output is None:
        make_folder(target.parent)
    sweep(target.absolute().parent)
    write_text_atomic(target, done.text)
    facts = {"cases": done.cases, "rounds": done.rounds, "noise": done.noise,
             "seconds": done.seconds}  # fmt: skip
    if format is OutputFormat.json:
        show_json(calibration_json(done.profile, str(target), facts))
        return
    show(calibration_table(done.profile), f"wrote {target}: --hardware host"
         if output is None else f"wrote {target}: --hardware {target}")  # fmt: skip
