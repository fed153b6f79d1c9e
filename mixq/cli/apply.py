"""mixq apply: quantize a model as a plan says and save it packed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixq.cli import options
from mixq.cli.console import OutputFormat, show, show_json
from mixq.cli.inputs import check_demo


def apply(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="plan.json of a search.")],
    model: options.Model = None,
    trust_remote_code: options.TrustRemoteCode = False,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="The packed safetensors file.")
    ] = Path("model.mixq.safetensors"),
    format: options.Format = OutputFormat.table,
) -> None:
    """Pack a model's weights as a plan says, into one safetensors file without pickle.

    The file is exactly as large as the plan predicted, plus its header. In Python,
    mixq.load(FILE, model) brings it back.
    """
    from mixq.artifact import save
    from mixq.plan import Plan
    from mixq.sources import load_model

    loaded_plan = Plan.load(plan)
    loaded = load_model(model, trust_remote_code=trust_remote_code)
    check_demo(loaded_plan, model, loaded)
    written = save(loaded_plan.apply(loaded.model), output)
    if format is OutputFormat.json:
        predicted = loaded_plan.predicted.weight_bytes
        show_json({"file": str(output), "tensor_bytes": written, "predicted_bytes": predicted})
        return
    show(
        f"Written to {output}: {written:,} bytes of tensors, as the plan predicted; "
        f"{loaded_plan.model.original_bytes / written:.2f}x smaller"
        if written == loaded_plan.predicted.weight_bytes
        else f"Written to {output}: {written:,} bytes of tensors, but the plan predicted "
        f"{loaded_plan.predicted.weight_bytes:,}"
    )
