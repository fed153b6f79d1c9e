"""What a command may take of the machine: processes and a device."""

from __future__ import annotations

from typing import Annotated

import typer

from mixq.cli import complete
from mixq.cli.console import note
from mixq.cli.panels import MEASURING

Workers = Annotated[
    int,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Measure sensitivities and plans in N processes, with the same result. Each takes as "
        "many threads as one alone; OMP_NUM_THREADS says how many.",
        rich_help_panel=MEASURING,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where the model is run while it is measured: cpu, cuda, cuda:1. Rounding stays on "
        "the processor.",
        autocompletion=complete.devices,
        rich_help_panel=MEASURING,
    ),
]


def check_resources(workers: int, device: str) -> None:
    """Refuse a device that is not there; say so where processes would get in each other's way.

    Raises:
        UsageError: if there is no such device.
    """
    from mixq.sensitivity.device import check_device
    from mixq.sensitivity.workers import crowding

    check_device(device, workers)
    remark = crowding(workers) if workers > 1 else None
    if remark is not None:
        note(f"note: {remark}")
