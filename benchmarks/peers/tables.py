"""The page's tables from the rows of the data file; no figure of theirs is typed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

START: Final = "<!-- made by benchmarks/other_tools.py --page -->"
END: Final = "<!-- end -->"
TITLES: Final = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "minilm": "MiniLM-L6",
    "smollm2": "SmolLM2-135M, off its grid",
}
ERRORS: Final = {"mse": "squared output error", "kl": "KL divergence of logits"}
COLUMNS: Final = (
    "tool", "version", "setting", "kind", "bytes", "output error", "error over mixq's", "metric",
    "CPU s", "peak MB", "what it stores",
)  # fmt: skip

Row = Mapping[str, Any]


def tables(rows: Sequence[Row]) -> str:
    """A table for each model, in the order of `TITLES`."""
    return "\n\n".join(
        _table(title, [row for row in rows if row["model"] == model])
        for model, title in TITLES.items()
        if any(row["model"] == model for row in rows)
    )


def with_tables(page: str, made: str) -> str:
    """A page with the tables between its two marks replaced."""
    head, _, rest = page.partition(START)
    _, _, tail = rest.partition(END)
    return f"{head}{START}\n\n{made}\n\n{END}{tail}"


def _table(title: str, rows: Sequence[Row]) -> str:
    error, metric = rows[0]["error_metric"], rows[0]["metric"]
    lines = [
        f"### {title}",
        "",
        f"Output error: {ERRORS[error]}, ± its standard error. Metric: {metric}.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *(f"| {' | '.join(cells)} |" for cells in _cells(rows)),
    ]
    return "\n".join(lines)


def _cells(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """Each tool's row, and behind it that of mixq at its bytes."""
    ours = {row["against"]: row for row in rows if row["against"]}
    for row in rows:
        if row["against"]:
            continue
        rival = ours.get(f"{row['tool']}, {row['setting']}")
        ratio = "" if rival is None else f"{row['error'] / rival['error']:.3g}x"
        yield _line(row, row["tool"], ratio)
        if rival is not None:
            yield _line(rival, "**mixq**, at most those bytes", "")


def _line(row: Row, name: str, ratio: str) -> tuple[str, ...]:
    is_original = not row["version"]
    return (
        name,
        row["version"],
        row["setting"],
        row["kind"],
        f"{row['weight_bytes']:,}",
        "0" if is_original else f"{row['error']:.4g} ± {row['error_se']:.1g}",
        ratio,
        f"{row['value']:.4g}",
        "" if is_original else f"{row['cpu_s']:.0f}",
        "" if is_original else f"{row['peak_mb']:.0f}",
        row["note"],
    )
