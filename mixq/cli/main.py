"""Entry point: runs a command and turns refusals into one line and an exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

import typer

from mixq.cli import debug_log, loudness
from mixq.cli.app import app
from mixq.cli.command import INTERRUPTED, remember, this_command
from mixq.cli.console import drop_stdout, remark
from mixq.cli.memory import ADVICE, ran_out_of_memory
from mixq.errors import MixqError, UsageError, one_line

LAST_WORDS = f"error: {ADVICE}\n".encode()
TRACEBACK = "MIXQ_TRACEBACK"
"""Environment variable that shows where a bug is, for reports."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the status of the contract.

    0 done, 1 refused with a one-line reason, 2 wrong usage, 3 demands that cannot be met together.
    """
    # Before torch is imported: on a machine that does other work too, OpenMP threads that spin
    # while they wait for each other made the demo take a minute instead of three seconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that lacks a character is no error
            stream.reconfigure(errors="backslashreplace")
    status = run(sys.argv[1:] if arguments is None else arguments)
    # All is done and said: Ctrl-C would only print a traceback from Python's own tidying up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    remember(arguments)
    try:
        return _run(arguments)
    except MemoryError:  # while another error was looked at: nothing more is built here
        with suppress(OSError):
            os.write(2, LAST_WORDS)
        return 1
    finally:
        debug_log.stop()
        loudness.reset()


def _run(arguments: Sequence[str]) -> int:
    try:
        status = app(list(arguments), prog_name="mixq", standalone_mode=False)
    except MixqError as error:
        # An option that asked for too much says so itself.
        if not isinstance(error, UsageError) and ran_out_of_memory(error):
            return _refuse(ADVICE, 1)
        if error.exit_status != INTERRUPTED:
            debug_log.tell_origin(error)
        return _refuse(str(error), error.exit_status)
    except typer.TyperException as error:
        return _refuse_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except OSError as error:  # a file that vanished, a disk that failed: nobody's bug
        if error.filename is None:  # or stdout itself, written by typer's help
            drop_stdout()
        place = "" if error.filename is None else f"{error.filename}: "
        return _refuse(f"{place}{error.strerror or error}", 1)
    except Exception as error:
        if ran_out_of_memory(error):
            return _refuse(ADVICE, 1)
        # The contract is one line and never a traceback, also for what nobody thought of.
        if os.environ.get(TRACEBACK):
            raise
        return _refuse(
            f"unexpected {type(error).__name__}: {error}; this is a bug in mixq, please report "
            f"it with what {TRACEBACK}=1 shows",
            1,
        )
    if status == INTERRUPTED:  # typer catches Ctrl-C itself and returns the status
        return _interrupted()
    return status if isinstance(status, int) else 0


def _refuse_usage(error: typer.TyperException) -> int:
    """One line for what the parser refuses: an unknown option, a missing or malformed value."""
    status: int = getattr(error, "exit_code", 2)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if not message:  # no command was given, and the help has been shown
        return status
    given = _given(error)
    context = getattr(error, "ctx", None)
    path = "mixq" if context is None else context.command_path
    return _refuse(f"{message.rstrip('.')}{given}; try '{path} --help'", status)


def _given(error: typer.TyperException) -> str:
    """The value that an option did not take, where the message leaves it out: `, got '4x'`."""
    errors = getattr(error.__cause__ or error.__context__, "errors", None)  # of pydantic
    if errors is None:
        return ""
    value = one_line(repr(errors()[0]["input"]), 60)
    return "" if value in str(error) else f", got {value}"


def _interrupted() -> int:
    """Ctrl-C before a command has begun: while options are read or torch is imported."""
    return _refuse(f"interrupted, nothing is begun; again with: {this_command()}", INTERRUPTED)


def _refuse(message: str, status: int) -> int:
    remark(f"error: {message}")
    return status
