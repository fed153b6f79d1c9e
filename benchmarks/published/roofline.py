"""The plain roofline that fits are compared with: peak rates, and nothing lost."""

from __future__ import annotations

from mixq.cost.roofline import compute_s, memory_s
from mixq.predict.products import baseline_row, product_of
from mixq.predict.row import RATIO, Row
from published.groups import Group


def roofline(group: Group, row: Row) -> float:
    """What the row would measure if its chip reached its peaks, in the row's unit."""
    if row.unit != RATIO:
        return row.in_unit(_seconds(group, row, group.start.compute))
    return _seconds(group, baseline_row(row), "fp16") / _seconds(group, row, group.start.compute)


def _seconds(group: Group, row: Row, compute: str) -> float:
    product = product_of(group.profile, group.runtime, row)
    moved_bytes = product.load.weight_bytes + product.load.activation_bytes
    return max(
        compute_s(product.work.macs, product.machine.ops_per_s(compute)),
        memory_s(moved_bytes, product.machine.memory_bytes_per_s),
    )
