"""The table of sensitivities goes to JSON and CSV and comes back; hostile files do not."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mixq.sensitivity.table as table_module
from mixq.errors import OutputError, PlanError
from mixq.formats import Format
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.table import SensitivityTable

NAMES = ("w32", "w16", "w8", "w4g64", "w2g16-zp")
FORMATS = st.sampled_from([Format.parse(name) for name in NAMES])
POSITIVE = st.floats(0, allow_infinity=False)
WORDS = st.text(max_size=12)
TABLES = st.builds(
    SensitivityTable,
    entries=st.dictionaries(
        WORDS,
        st.dictionaries(
            FORMATS,
            st.builds(Estimate, POSITIVE, POSITIVE, st.integers(1, 10**9))
            | st.lists(st.floats(0, 1e100), min_size=1, max_size=5).map(Estimate.of),
            max_size=3,
        ),
        max_size=3,
    ),
    output_power=POSITIVE,
    output=WORDS,
    samples=st.integers(1, 10**9),
    model_fingerprint=WORDS,
    calibration_fingerprint=WORDS,
    mode=WORDS,
    refused=st.dictionaries(st.tuples(WORDS, st.sampled_from(NAMES)), WORDS, max_size=2),
    metric=WORDS,
    outputs=st.dictionaries(WORDS, POSITIVE, max_size=2),
)


def table() -> SensitivityTable:
    return SensitivityTable(
        entries={
            'odd, "name"\n': {
                Format(32): Estimate(0.0, 0.0, 4),
                Format(4, 64): Estimate(0.5, 0.125, 4),
            }
        },
        output_power=2.0,
        output="logits",
        samples=4,
        model_fingerprint="sha256:m",
        calibration_fingerprint="sha256:c",
        refused={("other", "w8"): "too large"},
    )


@settings(derandomize=True, deadline=None, max_examples=60)
@given(TABLES)
def test_round_trip(tmp_path_factory: Any, original: SensitivityTable) -> None:
    path = tmp_path_factory.mktemp("table") / "sensitivity.json"
    original.save(path)
    again = SensitivityTable.load(path)
    assert again == original
    assert list(again.entries) == list(original.entries)
    before = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == before


def test_json_fields(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    table().save(path)
    assert json.loads(path.read_text()) == {
        "schema_version": 1,
        "mode": "measured",
        "metric": "mse",
        "outputs": {},
        "output": "logits",
        "output_power": 2.0,
        "samples": 4,
        "model_fingerprint": "sha256:m",
        "calibration_fingerprint": "sha256:c",
        "units": {
            'odd, "name"\n': {
                "w32": {"error": 0.0, "error_se": 0.0, "samples": 4},
                "w4g64": {"error": 0.5, "error_se": 0.125, "samples": 4},
            }
        },
        "refused": [{"unit": "other", "format": "w8", "reason": "too large"}],
    }


@pytest.mark.parametrize(("power", "relative"), [(2.0, "0.25"), (0.0, "0.0")])
def test_csv(tmp_path: Path, power: float, relative: str) -> None:
    path = tmp_path / "sensitivity.csv"
    original = table()
    SensitivityTable(
        original.entries, power, "", 4, "sha256:m", "sha256:c", refused=original.refused
    ).save_csv(path)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    low, high = Estimate(0.5, 0.125, 4).interval()
    assert rows == [
        [
            "unit", "format", "bits", "error", "error_se", "relative_error", "low_95", "high_95"
        ],
        ['odd, "name"\n', "w32", "32", "0.0", "0.0", "0.0", "0.0", "0.0"],
        ['odd, "name"\n', "w4g64", "4", "0.5", "0.125", relative, str(low), str(high)],
    ]  # fmt: skip


def sampled() -> SensitivityTable:
    entries = {"a": {Format(4): Estimate.of([1.0, 1e-30, 2.5]), Format(32): Estimate.of([0.0])}}
    return SensitivityTable(entries, 2.0, "[\n1.0,\n 2.0\n]", 3, "sha256:m", "sha256:c")


def test_errors_by_sample_take_one_line(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    sampled().save(path)
    assert '"per_sample": [ 1.0, 1e-30, 2.5 ]\n' in path.read_text()
    assert SensitivityTable.load(path) == sampled()


def test_too_many_errors_by_sample_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sensitivity.json"
    monkeypatch.setattr(table_module, "MOST_KEPT", 4)
    sampled().save(path)
    assert len(SensitivityTable.load(path).entries["a"][Format(4)].per_sample) == 3
    monkeypatch.setattr(table_module, "MOST_KEPT", 3)
    sampled().save(path)
    found = SensitivityTable.load(path).entries["a"][Format(4)]
    assert found.per_sample == ()
    assert found.error_se == sampled().entries["a"][Format(4)].error_se


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    table().save(path)
    data = path.read_bytes()
    for end in range(len(data.rstrip())):
        path.write_bytes(data[:end])
        with pytest.raises(PlanError) as refusal:
            SensitivityTable.load(path)
        assert "\n" not in str(refusal.value)


def entry(data: Any) -> Any:
    return data["units"]['odd, "name"\n']["w4g64"]


def put(path: str, value: object) -> Callable[[Any], None]:
    """Set the dotted `path` of the file; `entry.` stands for one estimate."""

    def change(data: Any) -> None:
        *folders, leaf = path.split(".")
        for folder in folders:
            data = entry(data) if folder == "entry" else data[folder]
        data[leaf] = value

    return change


HOSTILE: dict[str, Callable[[Any], None]] = {
    "version": put("schema_version", 2),
    "no-version": lambda data: data.pop("schema_version"),
    "no-units": lambda data: data.pop("units"),
    "units-list": put("units", []),
    "format": put("units.x", {"w7": {"error": 0.0, "error_se": 0.0, "samples": 1}}),
    "format-text": put("units.x", {"=1+1": {"error": 0.0, "error_se": 0.0, "samples": 1}}),
    "negative": put("entry.error", -1.0),
    "text": put("entry.error", "0.5"),
    "null": put("entry.error", None),
    "bool": put("entry.error", True),
    "negative-se": put("entry.error_se", -1.0),
    "no-samples": put("entry.samples", 0),
    "half-sample": put("entry.samples", 1.5),
    "power": put("output_power", -1.0),
    "mode": put("mode", 3),
    "refused": put("refused", [{"unit": "a"}]),
    "huge": put("entry.error", 10**400),
    "few-by-sample": put("entry.per_sample", [0.5, 0.5]),
    "negative-by-sample": put("entry.per_sample", [0.5, 0.5, -0.5, 0.5]),
    "text-by-sample": put("entry.per_sample", "0.5"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_values_are_refused_in_one_line(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    path = tmp_path / "sensitivity.json"
    table().save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(PlanError, match=f"sensitivity table {path}: ") as refusal:
        SensitivityTable.load(path)
    assert "\n" not in str(refusal.value)


TEXTS: dict[str, bytes] = {
    "empty": b"",
    "nan": b'{"schema_version": NaN}',
    "list": b"[]",
    "nested": b"[" * 100_000,
    "binary": b"\xff\xfe\x00",
    "overflow": b'{"schema_version": 1e999}',
    "digits": b'{"schema_version": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_hostile_texts_are_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "sensitivity.json"
    path.write_bytes(text)
    with pytest.raises(PlanError, match="sensitivity table") as refusal:
        SensitivityTable.load(path)
    assert "\n" not in str(refusal.value)


def test_unknown_fields_are_left_to_later_versions(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    table().save(path)
    data = json.loads(path.read_text())
    data["later"] = {"more": 1}
    path.write_text(json.dumps(data))
    assert SensitivityTable.load(path) == table()


def test_missing_and_unwritable_files(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="is not a file"):
        SensitivityTable.load(tmp_path / "none.json")
    for save in (table().save, table().save_csv):
        with pytest.raises(OutputError):
            save(tmp_path / "none" / "file")
    assert list(tmp_path.iterdir()) == []


def test_tables_before_metrics_are_in_squared_errors(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    data = table().to_json()
    del data["metric"], data["outputs"]
    path.write_text(json.dumps(data), "utf-8")
    assert SensitivityTable.load(path) == table()


@pytest.mark.parametrize(
    ("metric", "relative"), [("mse", "0.25"), ("relative", "0.5"), ("kl", ""), ("a:loss", "")]
)
def test_only_squares_have_a_relative_error(tmp_path: Path, metric: str, relative: str) -> None:
    path = tmp_path / "sensitivity.csv"
    replace(table(), metric=metric).save_csv(path)
    with path.open(encoding="utf-8", newline="") as file:
        assert [row["relative_error"] for row in csv.DictReader(file)][1] == relative
