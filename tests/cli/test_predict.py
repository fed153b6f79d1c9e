"""mixq hardware predict: products, whole models, tables of rows."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PREDICT = ("hardware", "predict", "--hardware")
SHAPE = ("--m", "16", "--n", "4096", "--k", "4096")
HEADER = (
    "id,chip,cores_or_threads,runtime,kernel,model_or_op,M,N,K,batch,seq,weight_bits,act_bits,"
)
HEADER += "group_size,metric,value,unit"
ROWS = (
    "a,A100-80GB,1 GPU,PyTorch (Vidur/Sarathi profiler),cuBLAS fp16,gemm,16,4096,4096,,,16,16,,"
    "latency,0.025,ms",
    "b,A100-40GB,1 GPU,TensorRT demoBERT,TRT plugin engine,BERT-Base,,,,1,128,8,8,,latency,,ms",
    "c,Toaster 9,1,PyTorch,gemm,gemm,16,64,64,,,32,32,,latency,1,ms",
)


def table(folder: Path, *rows: str) -> Path:
    path = folder / "in.csv"
    path.write_text("\n".join((HEADER, *rows)) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("hardware", ["nvidia_a100", "intel_cpu", "raspberry_pi_5"])
def test_a_product(cli: Callable[..., Any], hardware: str) -> None:
    answer = cli(*PREDICT, hardware, *SHAPE, "--weight-bits", "4", "--group-size", "64")
    assert answer.status == 0
    assert "80% interval" in answer.out
    assert "MatMulNBits 4-bit" in answer.out


def test_a_product_as_json(cli: Callable[..., Any]) -> None:
    options = (*SHAPE, "--kernel", "cuBLAS fp16", "--weight-bits", "16", "--format", "json")
    found = cli(*PREDICT, "nvidia_a100", *options).json
    assert found["low"] < found["predicted"] < found["high"]
    assert found["unit"] == "us"
    # 4096 x 4096 weights of 2 bytes from a memory of 2.039 TB/s: no less than that.
    assert found["predicted"] > 2 * 4096 * 4096 / 2.039e12 * 1e6


def test_more_threads_are_quicker(cli: Callable[..., Any]) -> None:
    asked = (*PREDICT, "intel_cpu", "--m", "512", "--n", "4096", "--k", "4096", "--format", "json")
    one, eight = (cli(*asked, "--threads", n).json["predicted"] for n in ("1", "8"))
    assert 4 < one / eight <= 8


def test_a_whole_model(cli: Callable[..., Any]) -> None:
    options = ("--model-name", "BERT-base", "--sequence", "128", "--format", "json")
    found = cli(*PREDICT, "nvidia_a100", *options).json
    assert found["unit"] == "ms"
    assert 0.1 < found["predicted"] < 20


def test_rows(cli: Callable[..., Any], tmp_path: Path) -> None:
    path, out = table(tmp_path, *ROWS), tmp_path / "out.csv"
    answer = cli(*PREDICT, "auto", "--rows", str(path), "--output", str(out))
    assert answer.status == 0
    assert "2 of 3 rows predicted" in answer.out
    assert "1 rows with a measurement: median error" in answer.out
    assert "line 4 refused: chip 'Toaster 9' is not known" in answer.err
    before, after = read(path), read(out)
    kept = [name for name in HEADER.split(",") if name != "kernel"]
    assert [[row[c] for c in kept] for row in after] == [[row[c] for c in kept] for row in before]
    product, model, toaster = after
    assert product["kernel"] == "PyTorch (Vidur/Sarathi profiler): cuBLAS fp16"
    assert product["kernel_asked"] == "cuBLAS fp16"
    for row in (product, model):
        assert float(row["low"]) < float(row["predicted"]) < float(row["high"])
        assert row["refused"] == ""
    assert toaster["predicted"] == ""
    assert "Toaster 9" in toaster["refused"]


def test_rows_are_the_same_in_another_process(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = table(tmp_path, *ROWS)
    outs = [tmp_path / name for name in ("one.csv", "two.csv")]
    for out in outs:
        cli(*PREDICT, "auto", "--rows", str(path), "--output", str(out))
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_rows_on_one_chip(cli: Callable[..., Any], tmp_path: Path) -> None:
    path, out = table(tmp_path, ROWS[0]), tmp_path / "out.csv"
    args = (*PREDICT, "nvidia_h100", "--rows", str(path), "--output", str(out))
    found = cli(*args, "--format", "json").json
    assert found["rows"] == found["predicted"] == 1
    assert found["agreement"]["count"] == 1
    assert (
        float(read(out)[0]["predicted"]) < 0.025
    )  # a faster chip than the A100 that was measured


REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "nothing": (("nvidia_a100",), 2, "nothing to predict"),
    "half a shape": (("nvidia_a100", "--m", "16"), 2, "nothing to predict"),
    "shape and model": (("nvidia_a100", *SHAPE, "--model-name", "x"), 2, "nothing to predict"),
    "zero rows": (("nvidia_a100", "--m", "0", "--n", "1", "--k", "1"), 2, "--m"),
    "negative bits": (("nvidia_a100", *SHAPE, "--weight-bits", "-4"), 2, "weight_bits"),
    "many bits": (("nvidia_a100", *SHAPE, "--weight-bits", "64"), 2, "weight_bits"),
    "no format": (("nvidia_a100", *SHAPE, "--weight-bits", "4.5"), 2, "no format"),
    "group": (("intel_cpu", *SHAPE, "--weight-bits", "4", "--group-size", "8"), 2, "group_size"),
    "unknown kernel": (("nvidia_a100", *SHAPE, "--kernel", "magic"), 2, "kernel 'magic'"),
    "unknown runtime": (("nvidia_a100", *SHAPE, "--runtime", "magic"), 1, "runtime 'magic'"),
    "unknown model": (("nvidia_a100", "--model-name", "magic-9"), 2, "magic-9"),
    "unknown chip": (("toaster", *SHAPE), 1, "hardware 'toaster'"),
    "auto alone": (("auto", *SHAPE), 2, "--hardware auto needs rows"),
    "output alone": (("nvidia_a100", *SHAPE, "--output", "o.csv"), 2, "--output goes with --rows"),
    "rows alone": (("auto", "--rows", "in.csv"), 2, "--rows needs --output"),
    "rows and shape": (
        ("auto", "--rows", "in.csv", "--output", "o.csv", "--m", "4"),
        2,
        "leave out --m",
    ),
    "no file": (("auto", "--rows", "none.csv", "--output", "o.csv"), 2, "none.csv"),
}


@pytest.mark.parametrize(("options", "status", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(
    cli: Callable[..., Any],
    options: tuple[str, ...],
    status: int,
    expected: str,
) -> None:
    answer = cli(*PREDICT, *options)
    assert answer.status == status
    assert answer.out == ""
    assert expected in answer.error
    assert not Path("o.csv").exists()
