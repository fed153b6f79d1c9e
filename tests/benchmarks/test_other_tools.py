"""The page of the comparison against its data file, and what its script does by itself."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "peers")]

import other_tools  # noqa: E402
from jobs import JOBS, MIXQ  # noqa: E402
from replay import Recorded  # noqa: E402
from tables import END, START, tables, with_tables  # noqa: E402

ROWS = other_tools.read_rows()
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")


def test_the_pages_tables_are_those_that_the_script_makes_of_the_data_file() -> None:
    made = tables([asdict(row) for row in ROWS])
    assert with_tables(PAGE, made) == PAGE
    assert PAGE.count(START) == PAGE.count(END) == 1


def test_the_data_file_reads_back_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = other_tools.DATA.read_bytes()
    monkeypatch.setattr(other_tools, "DATA", tmp_path / "rows.csv")
    other_tools.write_rows(ROWS)
    assert (tmp_path / "rows.csv").read_bytes() == before


def test_mixq_takes_no_more_bytes_than_the_tool_that_it_stands_beside() -> None:
    paired = {
        (row.model, f"{row.tool}, {row.setting}"): row.weight_bytes
        for row in ROWS
        if not row.against
    }
    ours = [row for row in ROWS if row.against]
    assert ours
    for row in ours:
        assert row.weight_bytes <= paired[row.model, row.against]


def test_every_row_is_of_a_job_that_the_script_knows() -> None:
    known = {(model, job.tool, job.setting) for model in JOBS for job in JOBS[model]}
    known |= {(model, job.tool, job.setting) for model, job in MIXQ.items()}
    known |= {(model, "32 bits", "") for model in JOBS}
    assert {(row.model, row.tool, row.setting) for row in ROWS} <= known
    assert len({row.key for row in ROWS}) == len(ROWS)


def test_a_page_without_tables_gets_them_between_its_marks() -> None:
    page = f"before\n{START}\nold\n{END}\nafter\n"
    assert with_tables(page, "new") == f"before\n{START}\n\nnew\n\n{END}\nafter\n"


def test_an_error_is_divided_by_that_of_mixq_at_the_tools_bytes() -> None:
    values = {f.name: "x" for f in fields(other_tools.Row)}
    tool = other_tools.Row(
        **{
            **values, "model": "minilm", "against": "", "weight_bytes": 9, "error_metric": "mse",
            "error": 3.0, "error_se": 0.1, "value": 0.5, "cpu_s": 1.0, "peak_mb": 2.0,
        }
    )  # fmt: skip
    ours = replace(tool, tool="mixq", against="x, x", error=2.0, weight_bytes=8)
    lines = tables([asdict(tool), asdict(ours)]).splitlines()
    assert "1.5x" in lines[-2]
    assert lines[-1].startswith("| **mixq**, at most those bytes |")


def test_recorded_outputs_come_back_for_their_inputs_in_any_order() -> None:
    inputs, outputs = torch.randn(4, 3), torch.randn(4, 2)
    model = Recorded(inputs, outputs)
    assert torch.equal(model(inputs[[2, 0]]), outputs[[2, 0]])
    with pytest.raises(ValueError, match="not recorded"):
        model(torch.zeros(1, 3))
