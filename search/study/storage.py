"""Storage: where Optuna keeps a study, opened so that it survives what killed the last run."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from mixq.errors import MissingExtraError, MixqError, OutputError, UsageError
from mixq.files import one_line, open_regular, own_file

JOURNAL: Final = "study.journal"
POSTGRES: Final = "postgresql+psycopg://"
HEARTBEAT_S: Final = 5
GRACE_S: Final = 30
"""A process that has not been heard of for so long is taken for dead, and its trials are failed.
One that comes back later finds that out as it tells what it measured."""
CLASHES: Final = ("already exists", "duplicate key", "UNIQUE constraint")
"""What databases say where two processes make the same table."""


def open_storage(folder: Path | None, url: str | None) -> BaseStorage:
    """The storage of a run: a database by URL, else a journal in the folder, else memory.

    A last journal line that a kill has torn is cut off, since Optuna refuses to open it, and a
    lock that a killed process left is removed; the caller holds the folder's own lock.

    Raises:
        UsageError: if the database cannot be opened.
        MissingExtraError: if PostgreSQL's driver is not installed.
        OutputError: if the journal cannot be read or written.
    """
    if url is not None:
        return _database(url)
    if folder is None:
        return InMemoryStorage()
    # Absolute: Optuna's lock is a symbolic link to this path, read from the journal's folder.
    journal = folder.resolve() / JOURNAL
    try:
        own_file(journal)
        if journal.exists():
            with open_regular(journal) as file:
                data = file.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(journal, whole)
        for lock in journal.parent.glob(f"{JOURNAL}.lock*"):
            lock.unlink(missing_ok=True)
        return JournalStorage(JournalFileBackend(str(journal)))
    except OSError as error:
        if isinstance(error, MixqError):
            raise
        raise OutputError(
            f"{one_line(journal)} cannot be opened: {error.strerror or error}; make room or "
            "choose another folder with --output"
        ) from error
    except (
        *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
        *(RecursionError, OverflowError),
    ) as error:
        # What Optuna's replay of the lines raises when one of them is not its own.
        raise OutputError(
            f"{one_line(journal)} has a line that Optuna did not write; delete the file to "
            "measure the plans again"
        ) from error


def _database(url: str) -> BaseStorage:
    """A database; processes that die there are noticed by their heartbeats (`Heartbeat`)."""
    shown = f"--storage {one_line(_without_password(url))} cannot be opened"
    # Of several processes that make the tables at once, all but one are refused the first time.
    for pause_s in (0.1, 0.3, 1.0, None):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return RDBStorage(
                    re.sub(r"^postgres(ql)?://", POSTGRES, url),
                    engine_kwargs={"pool_pre_ping": True, "connect_args": _connection(url)},
                    heartbeat_interval=HEARTBEAT_S,
                    grace_period=GRACE_S,
                )
        except Exception as error:  # SQLAlchemy's and the drivers' errors share no base
            if isinstance(error, ImportError) and url.startswith("postgres"):
                raise MissingExtraError(
                    "psycopg", "postgres", "--storage postgresql://"
                ) from error
            if pause_s is None or not any(words in str(error) for words in CLASHES):
                raise UsageError(
                    f"{shown}: {one_line(_without_password(_first_line(error)))}; give a "
                    "database URL like sqlite:///study.db or leave it out"
                ) from error
            time.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def storage_problems(what: str) -> Iterator[None]:
    """Turns what Optuna's storages raise for a full disk or a lost database into one line.

    Optuna's own remarks are kept quiet meanwhile.

    Raises:
        OutputError: that `what`, and why.
    """
    try:
        with quiet():
            yield
    except (OSError, OptunaError, RuntimeError) as error:  # the journal's lock raises the last
        reason = error.strerror if isinstance(error, OSError) else None
        raise OutputError(
            f"{what}: {one_line(reason or _first_line(error))}; make room or repair it and run "
            "the same command again, it goes on from the plans measured before this one"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's own remarks on stderr."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _connection(url: str) -> dict[str, str]:
    """Options of a connection: PostgreSQL ends those that a stopped process left in a transaction.

    Their locks would make every other process wait for as long as it is stopped.
    """
    if not url.startswith("postgres") or "options=" in url:
        return {}
    return {"options": f"-c idle_in_transaction_session_timeout={1000 * GRACE_S}"}


def _without_password(text: str) -> str:
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


def _first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
