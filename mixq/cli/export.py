"""mixq export: write a quantized model for a runtime, and see that it does what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixq.cli import complete, options
from mixq.cli.console import OutputFormat, note, progress_bar, show, show_json
from mixq.cli.inputs import check_demo, load_inputs
from mixq.errors import UsageError


def export(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="plan.json of a search.")],
    model: options.Model = None,
    trust_remote_code: options.TrustRemoteCode = False,
    calibration: options.Calibration = None,
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            autocompletion=complete.runtimes,
            metavar="NAME",
            help="onnxruntime, onnxruntime-genai, openvino, gguf, mlx, qdq, transformers, torch, "
            "or one of an installed package.",
        ),
    ] = "onnxruntime",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="PATH",
            help="The file, or folder where the runtime reads one. Default: model and the "
            "runtime's suffix.",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Hugging Face folder with tokenizer and configuration, for language models. "
            "Default: where the model came from.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a folder that is there.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of the runtime, such as activations=float (onnxruntime) or target=tensorrt "
            "(qdq); may be given several times.",
        ),
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Write a model as a plan says for a runtime: the integers that were measured, no others.

    The file is loaded in the real runtime before it is put in place. Its outputs on calibration
    data must be those of the plan, within 0.1% where the runtime computes with floats and 2%
    where its kernels round activations to 8 bits, and its bytes the predicted ones within 0.5%.
    What fails leaves no file.
    """
    from mixq.export.export import export as export_model
    from mixq.export.registry import runtime as runtime_named
    from mixq.plan import Plan

    loaded_plan = Plan.load(plan)
    chosen = dict(_pair(text) for text in option or [])
    # Made before the model is loaded, which takes long: a wrong word is refused at once.
    kind = runtime_named(runtime, **chosen)
    target = output or Path(f"model{kind.suffix}")
    loaded, data = load_inputs(model, calibration, trust_remote_code=trust_remote_code)
    check_demo(loaded_plan, model, loaded)
    with progress_bar() as progress:
        done = export_model(
            loaded.model,
            loaded_plan,
            target,
            runtime=runtime,
            calibration=data,
            tokenizer=tokenizer or loaded.folder,
            overwrite=overwrite,
            progress=progress,
            **chosen,
        )
    if format is OutputFormat.json:
        show_json(done.to_json())
        return
    for line in done.notes:
        note(f"note: {line}")
    show(
        f"Written to {done.path}: {done.tensor_bytes:,} bytes of weights as predicted, "
        f"{done.file_bytes:,} with all that goes with them "
        f"({loaded_plan.model.original_bytes / done.file_bytes:.2f}x smaller than 32 bits); "
        f"{runtime} computes the plan's outputs within {done.difference:.1g} of their size "
        f"({done.tolerance:g} allowed)"
    )


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (sign and name.isidentifier() and value):
        raise UsageError(
            f"--option has {text!r:.60}, but it takes NAME=VALUE; try activations=float"
        )
    return name, value
