"""Entry point: runs a command and turns refusals into one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer
from rich.console import Console

from mixq.cli.app import app
from mixq.errors import MixqError

INTERRUPTED = 130
"""128 + SIGINT, what shells report for a program that Ctrl-C ended."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the status of the contract.

    0 done, 1 refused with a one-line reason, 2 wrong usage, 3 demands that cannot be met together.
    """
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    try:
        status = app(list(arguments), prog_name="mixq", standalone_mode=False)
    except MixqError as error:
        return _refuse(str(error), error.exit_status)
    except typer.Exit as ended:
        return ended.exit_code
    except typer.TyperException as error:
        # Usage errors of the parser: an unknown option, a missing or malformed value.
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return _refuse(f"{message} Try 'mixq --help'.", getattr(error, "exit_code", 2))
    except (KeyboardInterrupt, typer.Abort):
        return _refuse("interrupted; the same command goes on from here", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status if isinstance(status, int) else 0


def _refuse(message: str, status: int) -> int:
    line = " ".join(message.split())
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"error: {line}")
    return status
