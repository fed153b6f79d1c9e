"""Which layer a report shows the weights of."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mixq.formats import Format
from mixq.search.weight_picture import FEW, most_sensitive
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.table import SensitivityTable

W32, W8, W4, W2, W2Z = (Format.parse(n) for n in ("w32", "w8", "w4", "w2", "w2-zp"))
SMALL, LARGE = (FEW - 1, 1), (FEW, 1)
CASES: dict[str, tuple[dict[str, tuple[tuple[int, int], dict[Format, float]]], object]] = {
    "largest-at-2-bits": ({"a": (LARGE, {W2: 1.0, W4: 9.0}), "b": (LARGE, {W2: 2.0})}, ("b", W2)),
    "best-format-of-a-width": (
        {"a": (LARGE, {W2: 9.0, W2Z: 1.0}), "b": (LARGE, {W2: 2.0})}, ("b", W2)
    ),
    "few-weights-show-little": ({"a": (SMALL, {W2: 9.0}), "b": (LARGE, {W2: 2.0})}, ("b", W2)),
    "unless-there-is-no-other": ({"a": (SMALL, {W2: 9.0}), "b": (SMALL, {W2: 2.0})}, ("a", W2)),
    "narrowest-there-is": ({"a": (LARGE, {W8: 9.0}), "b": (LARGE, {W4: 1.0, W8: 0.0})}, ("b", W4)),
    "first-of-equals": ({"a": (LARGE, {W2: 1.0}), "b": (LARGE, {W2: 1.0})}, ("a", W2)),
    "nothing-measured": ({"a": (LARGE, {W32: 0.0})}, None),
}  # fmt: skip


@pytest.mark.parametrize(("units", "found"), CASES.values(), ids=CASES)
def test_the_layer_that_suffers_most(
    units: Mapping[str, tuple[tuple[int, int], Mapping[Format, float]]], found: object
) -> None:
    entries = {
        name: {fmt: Estimate(error, 0.0, 2) for fmt, error in row.items()}
        for name, (_, row) in units.items()
    }
    shapes = {name: SimpleNamespace(rows=r, columns=c) for name, ((r, c), _) in units.items()}
    table = SensitivityTable(entries, 1.0, "", 2, "m", "c")
    assert most_sensitive(table, cast("Any", shapes)) == found
