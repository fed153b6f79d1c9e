"""The files of a bench: its numbers and its plot."""

from __future__ import annotations

from pathlib import Path

from mixq.bench.result import Bench
from mixq.errors import OutputError
from mixq.files import one_line, write_bytes_atomic, write_json_atomic, write_text_atomic
from mixq.report.bench_view import BenchView


def write_bench(bench: Bench, folder: Path) -> list[Path]:
    """Write bench.json, bench.html and bench.png; the page needs no network.

    Raises:
        OutputError: if the folder or a file cannot be written.
    """
    from mixq.report.bench_matplotlib import picture
    from mixq.report.bench_plotly import page

    make_folder(folder)
    files = [folder / f"bench.{kind}" for kind in ("json", "html", "png")]
    view = BenchView.of(bench)
    write_json_atomic(files[0], bench.to_json())
    write_text_atomic(files[1], page(view))
    write_bytes_atomic(files[2], picture(view))
    return files


def make_folder(folder: Path) -> None:
    """Make a folder for results, if it is not there.

    Raises:
        OutputError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{one_line(folder)} cannot be made: {one_line(error.strerror or error)}; choose "
            "another place with --output"
        ) from error
