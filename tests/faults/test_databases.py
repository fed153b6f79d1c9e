"""A study's database that goes away amid a search: one line, and the same command goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.exc import DBAPIError

from tests.search.study.postgres import cluster, programs

from .commands import Stage
from .databases import lose_amid

LINES = 16
"""Of the journal, when the first plan is being measured."""


def lines_of(journal: Path) -> Callable[[], bool]:
    return lambda: journal.exists() and journal.read_bytes().count(b"\n") >= LINES


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_a_journal(stage: Stage, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "hurt"
    journal = folder / "run" / "study.journal"

    def lose() -> None:
        if how == "removed":
            journal.unlink()
        else:
            os.truncate(journal, 0)

    assert lose_amid(stage, folder, None, lines_of(journal), lose) == []


def test_a_journal_that_is_cut_is_refused_with_the_way_out(stage: Stage, tmp_path: Path) -> None:
    """What others wrote over cannot be told from what is lost: it is never guessed."""
    folder = tmp_path / "hurt"
    journal = folder / "run" / "study.journal"

    def cut() -> None:
        os.truncate(journal, journal.stat().st_size - 9)

    problems = lose_amid(stage, folder, None, lines_of(journal), cut)
    assert not [problem for problem in problems if problem.startswith("unclean")]
    assert all("delete" in problem for problem in problems if problem.startswith("stuck"))
    journal.unlink()
    assert lose_amid(stage, folder, None, lines_of(journal), lambda: None) == []


def test_sqlite(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "hurt"
    file = folder / "study.db"

    def begun() -> bool:
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                return bool(database.execute("select count(*) from trials").fetchone()[0])
        except sqlite3.Error:
            return False

    assert lose_amid(stage, folder, f"sqlite:///{file}", begun, file.unlink) == []


@pytest.mark.slow
@pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed")
def test_postgresql_that_crashes(stage: Stage, tmp_path: Path) -> None:
    with cluster() as database:
        engine = sqlalchemy.create_engine(
            database.url.replace("postgresql:", "postgresql+psycopg:"),
            poolclass=sqlalchemy.NullPool,
        )

        def begun() -> bool:
            try:
                with engine.connect() as connection:
                    found = connection.execute(sqlalchemy.text("select count(*) from trials"))
                    return bool(found.scalar_one())
            except DBAPIError:
                return False

        def crash() -> None:
            database.stop(signal.SIGQUIT)
            database.start()

        assert lose_amid(stage, tmp_path / "hurt", database.url, begun, crash) == []
