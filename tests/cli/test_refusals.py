"""Every bad request gets one line on stderr, nothing on stdout, the right status, no harm done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REFUSED, USAGE, INFEASIBLE = 1, 2, 3
SIX = ("--target-compression", "6")
DEMO = ("search", "--hardware", "intel_cpu")


def tiny(function: str, *more: str) -> tuple[str, ...]:
    return (*DEMO, *SIX, "--model", f"tiny.py:{function}", *more)


REFUSALS: dict[str, tuple[tuple[str, ...], int, str]] = {
    # hardware
    "hardware-unknown": (("search", "--hardware", "intel_gpu", *SIX), REFUSED, "mean 'intel_cpu'"),
    "hardware-missing": (("search", *SIX), USAGE, "--hardware"),
    "hardware-no-file": (("search", "--hardware", "a/b.toml", *SIX), REFUSED, "a/b.toml"),
    "hardware-show": (("hardware", "show", "nvidia"), REFUSED, "nvidia_a100"),
    # demands
    "no-demand": (DEMO, USAGE, "no demand"),
    "compression-zero": ((*DEMO, "--target-compression", "0"), USAGE, "--target-compression is 0"),
    "compression-nan": ((*DEMO, "--target-compression", "nan"), USAGE, "--target-compression"),
    "compression-word": (
        (*DEMO, "--target-compression", "six"),
        USAGE,
        "number, got 'six'; try 'mixq search --help'",
    ),
    "size-infinite": ((*DEMO, "--max-size-mb", "inf"), USAGE, "--max-size-mb is inf"),
    "size-negative": ((*DEMO, "--max-size-mb", "-1"), USAGE, "--max-size-mb is -"),
    "error-negative": ((*DEMO, "--max-error", "-1"), USAGE, "--max-error is -1"),
    "unreachable": ((*DEMO, "--target-compression", "99"), INFEASIBLE, "compression: 1 to 1"),
    "unreachable-memory": ((*DEMO, "--max-memory-mb", "0.001"), INFEASIBLE, "--max-memory-mb: "),
    "contradiction": (
        (*DEMO, "--target-compression", "12", "--min-speedup", "1"),
        INFEASIBLE,
        "not together",
    ),
    "error-out-of-reach": (
        (*tiny("load"), "--bits", "8,4", "--target-compression", "1", "--max-error", "0"),
        INFEASIBLE,
        "together with the other demands: the widest plan errs by",
    ),
    "error-alone-out-of-reach": (
        (*DEMO, "--model", "tiny.py:load", "--bits", "8,4", "--max-error", "0"),
        INFEASIBLE,
        "cannot be met: the widest plan errs by",
    ),
    "metric-out-of-reach": (
        (*tiny("judged"), "--max-metric-drop", "0", "--trials", "1"),
        INFEASIBLE,
        "the least measured drop of closeness is",
    ),
    "metric-without-evaluate": ((*tiny("load"), "--max-metric-drop", "1"), USAGE, "evaluation"),
    # search options
    "trials-zero": (
        (*DEMO, *SIX, "--trials", "0"),
        USAGE,
        "--trials': Input should be greater than or equal to 1, got '0'",
    ),
    "seed-negative": ((*DEMO, *SIX, "--seed", "-1"), USAGE, "--seed"),
    "device-unknown": ((*DEMO, *SIX, "--device", "gpu"), USAGE, "--device is 'gpu'"),
    "device-missing": (("analyze", "--device", "cuda:99"), USAGE, "CUDA devices here; leave it"),
    "workers-zero": ((*DEMO, *SIX, "--workers", "0"), USAGE, "--workers"),
    "batch-zero": ((*DEMO, *SIX, "--batch-size", "0"), USAGE, "--batch-size"),
    "batch-huge": ((*DEMO, *SIX, "--batch-size", str(10**12)), USAGE, "no room in memory"),
    "batch-beyond-int64": ((*DEMO, *SIX, "--batch-size", str(10**25)), USAGE, "no room in memory"),
    "threads-too-many": ((*DEMO, *SIX, "--threads", "100"), USAGE, "40 cores"),
    "bits-unknown": ((*DEMO, *SIX, "--bits", "8,3"), USAGE, "3 bits"),
    "bits-empty": ((*DEMO, *SIX, "--bits", ""), USAGE, "--bits"),
    "bits-words": ((*DEMO, *SIX, "--bits", "eight"), USAGE, "--bits is 'eight'"),
    "bits-digits": ((*DEMO, *SIX, "--bits", "9" * 5000), USAGE, "--bits"),
    "groups-small": ((*DEMO, *SIX, "--group-sizes", "64,8"), USAGE, "--group-sizes has 8, but"),
    "groups-large": ((*DEMO, *SIX, "--group-sizes", "257"), USAGE, "'channel' for one scale"),
    "groups-words": ((*DEMO, *SIX, "--group-sizes", "big"), USAGE, "--group-sizes is 'big'"),
    "groups-underscore": ((*DEMO, *SIX, "--group-sizes", "1_6"), USAGE, "--group-sizes is '1_6'"),
    "bits-underscore": ((*DEMO, *SIX, "--bits", "3_2"), USAGE, "--bits is '3_2'"),
    "pin-arabic": ((*DEMO, *SIX, "--pin", "*=\u0664"), USAGE, "PATTERN=BITS"),
    "analyze-equalize": (("analyze", "--equalize", "more"), USAGE, "--equalize is 'more'"),
    "groups-empty": ((*DEMO, *SIX, "--group-sizes", ""), USAGE, "--group-sizes is ''"),
    "groups-gap": ((*DEMO, *SIX, "--group-sizes", "64,,32"), USAGE, "--group-sizes is '64,,32'"),
    "groups-digits": ((*DEMO, *SIX, "--group-sizes", "9" * 5000), USAGE, "--group-sizes is '99"),
    "grids-unknown": ((*DEMO, *SIX, "--grids", "affine,cubic"), USAGE, "--grids has 'cubic', but"),
    "grids-empty": ((*DEMO, *SIX, "--grids", ""), USAGE, "--grids has ''"),
    "grids-of-8-bits": ((*DEMO, *SIX, "--grids", "reduced"), USAGE, "--grids has 'reduced'"),
    "method-unknown": (
        (*DEMO, *SIX, "--method", "awq"),
        USAGE,
        "--method has 'awq', but it takes",
    ),
    "method-escape": ((*DEMO, *SIX, "--method", "\x1b[31m"), USAGE, "--method has '\\x1b[31m'"),
    "activations-unknown": (
        (*DEMO, *SIX, "--activations", "none,int4"),
        USAGE,
        "--activations has 'int4', but it takes none, dynamic, static",
    ),
    "half-unknown": ((*DEMO, *SIX, "--half", "fp8"), USAGE, "--half is 'fp8', but it is float16"),
    "half-grid": ((*DEMO, *SIX, "--half", "symmetric"), USAGE, "--half is 'symmetric'"),
    "samples-zero": ((*DEMO, *SIX, "--samples", "0"), USAGE, "--samples"),
    "samples-word": ((*DEMO, *SIX, "--samples", "all"), USAGE, "--samples"),
    "equalize-unknown": ((*DEMO, *SIX, "--equalize", "more"), USAGE, "--equalize is 'more'"),
    "analyze-groups": (("analyze", "--group-sizes", "8"), USAGE, "--group-sizes has 8"),
    "analyze-grids": (("analyze", "--grids", "cubic"), USAGE, "--grids has 'cubic'"),
    "analyze-method": (("analyze", "--method", "awq"), USAGE, "--method has 'awq'"),
    "analyze-activations": (("analyze", "--activations", ""), USAGE, "--activations has ''"),
    "analyze-half": (("analyze", "--half", "fp8"), USAGE, "--half is 'fp8'"),
    "analyze-samples": (("analyze", "--samples", "-1"), USAGE, "--samples"),
    "analyze-bits": (("analyze", "--bits", "8,3"), USAGE, "3 bits"),
    "pin-no-width": ((*DEMO, *SIX, "--pin", "stem.weight"), USAGE, "PATTERN=BITS"),
    "pin-no-pattern": ((*DEMO, *SIX, "--pin", "=8"), USAGE, "PATTERN=BITS"),
    "pin-odd-width": ((*DEMO, *SIX, "--pin", "stem*=5"), USAGE, "5 bits"),
    "pin-digits": ((*DEMO, *SIX, "--pin", "stem*=" + "9" * 5000), USAGE, "PATTERN=BITS"),
    "pin-no-match": ((*DEMO, *SIX, "--pin", "stemm=8"), USAGE, "stem.weight"),
    "tie-no-match": ((*DEMO, *SIX, "--tie", "qkv"), USAGE, "matches none"),
    "tie-of-one": ((*DEMO, *SIX, "--tie", "stem*"), USAGE, "two units"),
    "tie-pinned-apart": (
        (*tiny("load"), "--tie", "*", "--pin", "0.weight=8", "--pin", "2.weight=4"),
        USAGE,
        "no format that all of them may take",
    ),
    "storage-no-driver": ((*tiny("load"), "--storage", "nosql://x"), USAGE, "nosql://x"),
    "storage-no-url": ((*tiny("load"), "--storage", "study.db"), USAGE, "sqlite:///study.db"),
    "storage-no-folder": ((*tiny("load"), "--storage", "sqlite:///no/a.db"), USAGE, "no/a.db"),
    "metric-unknown": ((*DEMO, *SIX, "--metric", "huber"), USAGE, "--metric is 'huber', but it"),
    "metric-no-function": (
        (*DEMO, *SIX, "--metric", "tiny.py:lost"),
        REFUSED,
        "'tiny.py' has no 'lost'",
    ),
    "metric-no-module": (
        (*DEMO, *SIX, "--metric", "nowhere.at:all"),
        REFUSED,
        "module 'nowhere.at' is neither",
    ),
    "metric-fails": (
        tiny("load", "--metric", "tiny.py:failing_loss"),
        REFUSED,
        "failed with KeyError: 'labels",
    ),
    "metric-sketched": (
        tiny("load", "--metric", "tiny.py:loss", "--sensitivity", "sketch"),
        USAGE,
        "not a loss of your own",
    ),
    "analyze-sketched": (
        ("analyze", "--metric", "tiny.py:loss", "--sensitivity", "sketch"),
        USAGE,
        "not a loss of your own",
    ),
    "analyze-metric": (("analyze", "--metric", "l2"), USAGE, "--metric is 'l2'"),
    "outputs-unknown": (
        (*DEMO, *SIX, "--outputs", "logits"),
        REFUSED,
        "'logits'; it returns output",
    ),
    "outputs-empty": ((*DEMO, *SIX, "--outputs", ""), USAGE, "--outputs is ''"),
    "outputs-gap": ((*DEMO, *SIX, "--outputs", "a,,b"), USAGE, "--outputs is 'a,,b'"),
    "outputs-twice": ((*DEMO, *SIX, "--outputs", "a,a=2"), USAGE, "--outputs is 'a,a=2'"),
    "outputs-word": ((*DEMO, *SIX, "--outputs", "a=much"), USAGE, "--outputs is 'a=much'"),
    "outputs-nan": ((*DEMO, *SIX, "--outputs", "a=nan"), USAGE, "--outputs is 'a=nan'"),
    "outputs-negative": ((*DEMO, *SIX, "--outputs", "a=-1"), USAGE, "weighs 'a' with -1.0"),
    "outputs-zero": ((*DEMO, *SIX, "--outputs", "a=0,b=0"), USAGE, "add up to 0"),
    "analyze-outputs": (("analyze", "--outputs", "x="), USAGE, "--outputs is 'x='"),
    "sensitivity-unknown": ((*DEMO, *SIX, "--sensitivity", "guess"), USAGE, "guess"),
    # model and data
    "model-missing": ((*DEMO, *SIX, "--model", "./nowhere"), REFUSED, "./nowhere"),
    "model-no-function": (tiny("absent"), REFUSED, "absent"),
    "model-nan": (tiny("nan"), REFUSED, "2.weight"),
    "model-without-units": (tiny("no_units"), REFUSED, "no weight unit"),
    "model-asserts": (tiny("asserting"), REFUSED, "three columns"),
    "calibration-none": (tiny("bare"), REFUSED, "--calibration"),
    "calibration-empty": (tiny("empty"), REFUSED, "0 batches"),
    "calibration-empty-function": (
        tiny("bare", "--calibration", "tiny.py:nothing"),
        REFUSED,
        "0 batches",
    ),
    "calibration-wrong-shape": (tiny("wrong_shape"), REFUSED, "float32 (1, 31)"),
    "calibration-missing": (tiny("bare", "--calibration", "no.npz"), REFUSED, "no.npz"),
    "evaluate-fails": (tiny("failing", "--trials", "1"), REFUSED, "labels are gone"),
    # the parser
    "no-such-command": (("serach",), USAGE, "serach"),
    "no-such-option": ((*DEMO, "--fast"), USAGE, "--fast"),
    "no-such-format": ((*DEMO, *SIX, "--format", "yaml"), USAGE, "yaml"),
    "plan-missing": (("plan", "show", "none.json"), REFUSED, "none.json"),
    "plan-argument": (("plan", "show"), USAGE, "PLAN'; try 'mixq plan show --help'"),
    "plan-format": (
        ("plan", "show", "a", "--format", "x"),
        USAGE,
        "'x' is not one of 'table', 'json'; try",
    ),
    "apply-plan-missing": (("apply", "none.json"), REFUSED, "none.json"),
    "report-no-run": (("report", "nowhere"), REFUSED, "nowhere is not a folder"),
    "evaluate-missing": (("evaluate", "none.safetensors"), REFUSED, "none.safetensors"),
}


@pytest.mark.parametrize(("arguments", "status", "words"), REFUSALS.values(), ids=REFUSALS)
def test_refused_in_one_line(
    cli: Callable[..., Any], arguments: tuple[str, ...], status: int, words: str
) -> None:
    answer = cli(*arguments)
    assert words in answer.error
    assert answer.status == status
    assert answer.out == ""
    assert not Path("mixq-run", "plan.json").exists()
    assert len(answer.error) < 1000


@pytest.mark.parametrize(
    "demand",
    [("--target-compression", "99"), ("--max-size-mb", "0.001"), ("--max-latency-ms", "1e-9")],
    ids=lambda demand: demand[0].strip("-"),
)
def test_unreachable_is_refused_before_anything_is_measured(
    search: Callable[..., Any], demand: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("mixq.sensitivity.reference.Reference.__init__", never)
    answer = search(*demand)
    assert answer.status == INFEASIBLE
    assert "feasible ranges" in answer.error


def test_the_named_end_of_a_range_is_feasible(search: Callable[..., Any]) -> None:
    refusal = search("--target-compression", "99").error
    best = refusal.rpartition(" to ")[2]
    assert search("--target-compression", best, "--format", "json").status == 0


def test_the_named_least_error_is_feasible(search: Callable[..., Any]) -> None:
    narrow = ("--bits", "8,4", "--format", "json")
    refusal = search("--max-error", "1e-12", *narrow).error
    least = refusal.partition("the widest plan errs by ")[2].partition(";")[0]
    plan = search("--max-error", least, *narrow).json
    assert plan["measured"]["output_mse"] <= float(least)


def test_a_password_is_not_repeated(search: Callable[..., Any]) -> None:
    answer = search(*SIX, "--storage", "nosql://me:secret@host/db")
    assert answer.status == USAGE
    assert "secret" not in answer.err
    assert "nosql://me:***@host/db" in answer.error


def test_help_is_shown_without_a_command(cli: Callable[..., Any]) -> None:
    answer = cli()
    assert answer.status == USAGE
    assert "search" in answer.out
    assert answer.err == ""


def test_control_characters_do_not_reach_the_terminal(cli: Callable[..., Any]) -> None:
    answer = cli("plan", "show", "\x1b[31mred\udcff.json")
    assert "\x1b" not in answer.err
    assert "\\x1b[31mred" in answer.error
    answer.err.encode()


def test_a_bug_is_one_line_too(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise LookupError("that\nbreaks")

    monkeypatch.setattr("mixq.profiles.available", broken)
    with pytest.raises(LookupError):
        cli("hardware", "list")
    monkeypatch.delenv("MIXQ_TRACEBACK")
    answer = cli("hardware", "list")
    assert answer.status == REFUSED
    assert "unexpected LookupError: that breaks; this is a bug" in answer.error


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), REFUSED, "out of memory"),
        (OSError(5, "Input/output error", "disk"), REFUSED, "disk: Input/output error"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["memory", "disk", "ctrl-c"],
)
def test_what_the_machine_does_is_one_line(
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    words: str,
) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.setattr("mixq.profiles.available", fails)
    answer = cli("hardware", "list")
    assert answer.status == status
    assert words in answer.error
