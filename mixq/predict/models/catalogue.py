"""The networks that can be built: tables of convolutional ones, configurations of transformers."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from mixq.predict.models.transformer import Transformer
from mixq.predict.models.workload import Operation, Role, Workload

SCORE_PASSES: Final = 12
"""How often picking a detector's boxes goes over their scores, sorting included: assumed."""


def network_names() -> Mapping[str, tuple[str, ...]]:
    """Names of every table of operations."""
    return {key: tuple(value["names"]) for key, value in _toml("networks.toml").items()}


def transformer_names() -> Mapping[str, tuple[str, ...]]:
    """Names of every configuration."""
    return {key: tuple(value["names"]) for key, value in _toml("transformers.toml").items()}


@lru_cache(maxsize=512)
def transformer(name: str) -> Transformer | None:
    """The configuration of that canonical name; None if it is no transformer."""
    found = _toml("transformers.toml").get(name)
    if found is None:
        return None
    return Transformer(name, **{k: v for k, v in found.items() if k not in ("names", "source")})


@lru_cache(maxsize=512)
def network(name: str, batch: int = 1) -> Workload:
    """The table of operations of that canonical name, for `batch` samples."""
    table = _json("networks.json")[name]
    said = _toml("networks.toml").get(name, {})
    operations = tuple(_operation(row).of_batch(batch) for row in table["operations"])
    note = str(said.get("note", ""))
    if "scores" in said:
        passed = batch * said["scores"] * SCORE_PASSES
        operations += (Operation("elementwise", read=passed, written=passed, role="norm"),)
    return Workload(name, table["parameters"], operations, note)


def joined(name: str, *workloads: Workload) -> Workload:
    """Passes one after the other as one."""
    operations = tuple(each for workload in workloads for each in workload.operations)
    return replace(workloads[0], name=name, operations=operations)


def _operation(row: list[Any]) -> Operation:
    if row[0] in ("fused", "norm", "other"):
        role: Role = "plain" if row[0] == "other" else row[0]
        return Operation("elementwise", count=row[1], read=row[2], written=row[3], role=role)
    kind, count, m, n, k, groups, window, stride, repeats, read, written = row
    weights = 0 if kind == "attention" else n * k * groups
    return Operation(
        kind, m, n, k, groups, repeats, _pair(window), _pair(stride),
        count=count, read=read, written=written, weights=weights,
    )  # fmt: skip


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition("x")
    return int(first), int(second)


@lru_cache(maxsize=4)
def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads(_text(name))


@lru_cache(maxsize=2)
def _json(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_text(name))
    return found


def _text(name: str) -> str:
    return resources.files("mixq.predict.models").joinpath(name).read_text(encoding="utf-8")
