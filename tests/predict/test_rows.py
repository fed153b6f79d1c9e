from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import MixqError, UsageError
from mixq.predict.prediction import Prediction
from mixq.predict.row import Row
from mixq.predict.rows import parse_rows, read_rows, write_rows

HEADER = (
    "id,chip,runtime,kernel,model_or_op,M,N,K,weight_bits,act_bits,group_size,metric,value,unit"
)
PRODUCT = "a1,A100,PyTorch,cuBLAS fp16,gemm,16,4096,1024,16,16,,latency,12.5,us"
MODEL = "a2,A100,TRT,engine,BERT-Base,,,,8,8,,latency,0.58,ms"


def rows_of(*lines: str) -> list[Row]:
    return parse_rows("\n".join((HEADER, *lines)) + "\n", origin="in.csv")[1]


def test_a_product_and_a_model() -> None:
    product, model = rows_of(PRODUCT, MODEL)
    assert (product.m, product.n, product.k) == (16, 4096, 1024)
    assert product.is_product
    assert not model.is_product
    assert (product.line, model.line) == (2, 3)
    assert product.seconds() == pytest.approx(12.5e-6, rel=1e-15)
    assert model.seconds() == pytest.approx(0.58e-3, rel=1e-15)


# 2 x 16 x 4096 x 1024 operations, 4096 x 1024 weights of 16 bits.
@pytest.mark.parametrize(
    ("metric", "value", "unit", "seconds"),
    [
        ("latency", "3", "ms", 3e-3),
        ("decode_latency_per_token", "3", "s", 3.0),
        ("throughput", "134.217728", "GFLOP/s", 1e-3),
        ("throughput", "134.217728", "TOP/s", 1e-6),
        ("weight_throughput", "8.388608", "GB/s", 1e-3),
    ],
)
def test_values_are_seconds_of_one_call(
    metric: str, value: str, unit: str, seconds: float
) -> None:
    (row,) = rows_of(PRODUCT.replace("latency,12.5,us", f"{metric},{value},{unit}"))
    assert row.seconds() == pytest.approx(seconds, rel=1e-12)
    assert row.in_unit(seconds) == pytest.approx(float(value), rel=1e-12)


def test_samples_need_a_count() -> None:
    (row,) = rows_of(MODEL.replace("latency,0.58,ms", "throughput,200,samples/s"))
    assert row.seconds(things=14) == pytest.approx(0.07)
    with pytest.raises(UsageError, match="line 2: throughput in 'samples/s' is no time"):
        row.seconds()


def test_a_rate_is_low_where_the_time_is_high() -> None:
    (row,) = rows_of(PRODUCT.replace("latency,12.5,us", "throughput,1,GFLOP/s"))
    found = Prediction.of(row, 1e-3, 0.1, kernel="k")
    assert found.low < found.predicted < found.high
    assert found.low * found.high == pytest.approx(found.predicted**2)


REFUSED = {
    "no column": (HEADER, "id,chip", "line 1 has no column 'model_or_op'"),
    "column twice": ("id,chip", "chip,chip", "line 1 has column 'chip' twice"),
    "short": (",us", "", "line 2 has 13 cells and the header 14"),
    "text": (",16,4096", ",many,4096", "line 2, M: a number is needed, got 'many'"),
    "negative": (",16,4096", ",-16,4096", "line 2, M: a positive finite number"),
    "zero": ("12.5", "0", "line 2, value: a positive finite number"),
    "infinite": ("12.5", "inf", "line 2, value: a positive finite number"),
    "half a row": (",16,4096", ",16.5,4096", "line 2, M: a whole number"),
    "no bits": ("1024,16,16", "1024,,16", "line 2, weight_bits: bits of a weight"),
    "64 bits": ("1024,16,16", "1024,64,16", "line 2, weight_bits: bits of a weight"),
    "wide inputs": ("1024,16,16", "1024,16,99", "line 2, act_bits: bits of an activation"),
    "group": ("16,16,,", "16,16,few,", "line 2, group_size: a number is needed"),
    "unit": (",us", ",hours", "line 2, unit: a unit is one of s, ms"),
    "units disagree": (",us", ",GB/s", "line 2, unit: latency is a time and this a rate"),
    "metric": ("latency", "speed", "line 2, metric: a metric names one of latency"),
    "no rows": ("16,4096,1024", ",4096,1024", "line 2, M: a product needs M, N and K"),
    "no inputs": ("16,4096,1024", "16,4096,", "line 2, M: a product needs M, N and K"),
    "quote": ("cuBLAS fp16", '"cuBLAS" fp16', "line 2 is no CSV"),
    "long text": ("12.5", "9" * 5000, "line 2, value: a positive finite number"),
}


@pytest.mark.parametrize(("old", "new", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(old: str, new: str, expected: str) -> None:
    text = f"{HEADER}\n{PRODUCT}\n"
    assert old in text
    with pytest.raises(UsageError) as caught:
        parse_rows(text.replace(old, new, 1), origin="in.csv")
    message = str(caught.value)
    assert message.startswith("in.csv: ")
    assert expected in message
    assert message.isprintable()
    assert len(message) < 400


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(0, 250), st.integers(0, 30), st.text(max_size=8))
def test_damage_never_ends_in_another_error(at: int, length: int, new: str) -> None:
    text = f"{HEADER}\n{PRODUCT}\n{MODEL}\n"
    message = ""
    try:
        parse_rows(text[:at] + new + text[at + length :], origin="in.csv")
    except MixqError as error:
        message = str(error)
    assert not message or message.isprintable()


def test_rows_are_written_as_they_were_read(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"{HEADER}\n{PRODUCT}\n{MODEL.replace('TRT', chr(34) + 'T, R' + chr(34))}\n")
    header, rows = read_rows(source)
    target = tmp_path / "out.csv"
    write_rows(target, header, [(row, (str(row.line),)) for row in rows], ("predicted",))
    again, back = read_rows(target)
    assert again == (*header, "predicted")
    assert [row.cells[:-1] for row in back] == [row.cells for row in rows]
    assert [row.cells[-1] for row in back] == [("predicted", "2"), ("predicted", "3")]


@pytest.mark.parametrize("name", ["none.csv", "."])
def test_a_file_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not a file; check the path"):
        read_rows(tmp_path / name)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        read_rows(tmp_path / "in.csv")
