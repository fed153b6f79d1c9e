"""RoundedStore: what was rounded is there in another process; what is damaged or other is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixq.errors import OutputError
from mixq.formats import Format
from mixq.quantize.weights import PackedWeight
from mixq.rounding.rounder import Rounder
from mixq.rounding.store import RoundedStore

NAMES = ("w4g16-gptq", "w2g16-affine-clip", "w4g32-zp-hqq", "w8a8-static", "w4g16-signed-gptq-bc")
KEY = ("sha256:model", "sha256:data")
UNIT = "head.weight"


def rounder(known: Any, store: RoundedStore | None = None) -> Rounder:
    return Rounder(known.model, known.units, known.moments, known.ranges, store)


def same(left: PackedWeight | None, right: PackedWeight) -> bool:
    return (
        left is not None
        and (left.format, left.shape, left.rows, left.columns, left.dtype)
        == (right.format, right.shape, right.rows, right.columns, right.dtype)
        and left.tensors.keys() == right.tensors.keys()
        and all(torch.equal(left.tensors[key], right.tensors[key]) for key in right.tensors)
    )


@pytest.fixture
def weight(known: Any) -> Tensor:
    found: Tensor = known.model.get_parameter(UNIT)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_round_trip(known: Any, weight: Tensor, tmp_path: Path, name: str) -> None:
    fmt = Format.parse(name)
    packed = rounder(known).packed(UNIT, fmt)
    RoundedStore(tmp_path, *KEY).put(UNIT, packed)
    assert same(RoundedStore(tmp_path, *KEY).get(UNIT, fmt, weight), packed)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 1


def test_what_was_rounded_is_not_rounded_again(
    known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = {UNIT: [Format.parse(name) for name in NAMES]}
    first = rounder(known, RoundedStore(tmp_path, *KEY))
    first.prepare(formats)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("rounded again")

    monkeypatch.setattr("mixq.rounding.rounder.round_weights", never)
    again = rounder(known, RoundedStore(tmp_path, *KEY))
    again.prepare(formats)
    for fmt in formats[UNIT]:
        assert same(again.packed(UNIT, fmt), first.packed(UNIT, fmt))


@pytest.mark.parametrize(
    "other",
    [("sha256:other", "sha256:data"), ("sha256:model", "sha256:other"), ("sha256:model",), ()],
    ids=["model", "data", "no-data", "nothing"],
)
def test_another_key_is_not_read(
    known: Any, weight: Tensor, tmp_path: Path, other: tuple[str, ...]
) -> None:
    fmt = Format.parse(NAMES[0])
    RoundedStore(tmp_path, *KEY).put(UNIT, rounder(known).packed(UNIT, fmt))
    assert RoundedStore(tmp_path, *other).get(UNIT, fmt, weight) is None


def test_another_code_version_is_not_read(
    known: Any, weight: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt = Format.parse(NAMES[0])
    RoundedStore(tmp_path, *KEY).put(UNIT, rounder(known).packed(UNIT, fmt))
    monkeypatch.setattr("mixq.rounding.store.CODE_VERSION", "rounded-next")
    assert RoundedStore(tmp_path, *KEY).get(UNIT, fmt, weight) is None


def test_other_units_and_formats_are_missing(known: Any, weight: Tensor, tmp_path: Path) -> None:
    store = RoundedStore(tmp_path, *KEY)
    store.put(UNIT, rounder(known).packed(UNIT, Format.parse("w4g16-gptq")))
    assert store.get(UNIT, Format.parse("w4g16-clip"), weight) is None
    assert store.get("hidden.weight", Format.parse("w4g16-gptq"), weight) is None


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xfe"),
    "text": lambda path: path.write_text("rounded"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_counts_as_missing_and_is_made_again(
    known: Any, weight: Tensor, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    fmt = Format.parse("w4g16-gptq")
    expected = rounder(known, RoundedStore(tmp_path, *KEY)).packed(UNIT, fmt)
    (path,) = tmp_path.glob("*/*")
    whole = path.read_bytes()
    damage(path)
    assert RoundedStore(tmp_path, *KEY).get(UNIT, fmt, weight) is None
    assert same(rounder(known, RoundedStore(tmp_path, *KEY)).packed(UNIT, fmt), expected)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("other", ["format", "unit", "weight"])
def test_a_whole_file_in_anothers_place_is_not_believed(
    known: Any, weight: Tensor, tmp_path: Path, other: str
) -> None:
    store, fmt = RoundedStore(tmp_path, *KEY), Format.parse("w4g16-gptq")
    store.put(UNIT, rounder(known).packed(UNIT, fmt))
    (path,) = tmp_path.glob("*/*")
    path.unlink()
    if other == "format":
        store.put(UNIT, rounder(known).packed(UNIT, Format.parse("w4g16-clip")))
    elif other == "unit":
        store.put("hidden.weight", rounder(known).packed("hidden.weight", fmt))
    else:
        weight = weight.reshape(-1, 2)
        store.put(UNIT, rounder(known).packed(UNIT, fmt))
    (found,) = tmp_path.glob("*/*")
    found.rename(path)
    assert store.get(UNIT, fmt, weight) is None


def test_without_a_folder_nothing_is_kept(
    known: Any, weight: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store, fmt = RoundedStore(None), Format.parse("w4g16-gptq")
    store.put(UNIT, rounder(known).packed(UNIT, fmt))
    assert store.get(UNIT, fmt, weight) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(known: Any, tmp_path: Path) -> None:
    packed = rounder(known).packed(UNIT, Format.parse("w4g16-gptq"))
    for folder in (tmp_path / "missing", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="run the same command again") as caught:
            RoundedStore(folder, *KEY).put(UNIT, packed)
        assert "\n" not in str(caught.value)


def test_odd_names_make_files_of_plain_names(known: Any, tmp_path: Path) -> None:
    packed = rounder(known).packed(UNIT, Format.parse("w4g16-gptq"))
    for name in ("../../x", "a/b", "\0", "n" * 1000, "\x1b[31m"):
        RoundedStore(tmp_path, *KEY).put(name, packed)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert all(len(file.parts) == 2 and len(file.name) == 44 for file in files)
