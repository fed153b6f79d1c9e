"""mixq analyze --stream: the files of mixq analyze, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from mixq.cli.main import run

from .conftest import tokens


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "ids.safetensors"
    save_file({"input_ids": tokens(6, 7)}, path)
    return path


def analyze(folder: Path, data: Path, output: Path, *options: str) -> int:
    return run([
        "analyze", "--model", str(folder), "--calibration", str(data), "--output", str(output),
        "--group-sizes", "16,32", *options,
    ])  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ("--sensitivity", "sketch"),
        ("--sensitivity", "measured", "--samples", "2"),
        ("--sensitivity", "sketch", "--activations", "none,dynamic"),
        ("--sensitivity", "measured", "--method", "hqq", "--bits", "16,4"),
    ],
    ids=["sketch", "measured", "rounded-activations", "hqq"],
)
def test_the_files_are_those_of_the_loaded_model(
    options: tuple[str, ...], folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    folder = folders["tied-head"]
    method = () if "--method" in options else ("--method", "rtn")
    assert analyze(folder, data, tmp_path / "whole", *options, *method) == 0
    # Without --method it is rtn, since no method sees data.
    assert analyze(folder, data, tmp_path / "streamed", "--stream", *options) == 0
    for name in ("sensitivity.json", "sensitivity.csv", "sensitivity.html", "sensitivity.png"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "streamed" / name).read_bytes() == expected
    for name in ("whole", "streamed"):
        identity = json.loads((tmp_path / name / "run.json").read_text())["identity"]
        assert identity["model"].startswith("sha256:")
    left = sorted(path.name.split("-")[0] for path in (tmp_path / "streamed").iterdir())
    assert left == [
        ".mixq.lock",
        "measurements",
        "run.json",
        "sensitivity.csv",
        "sensitivity.html",
        "sensitivity.json",
        "sensitivity.png",
    ]


def test_text_and_auto(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokenizer lies in the folder; auto is the sketch."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocabulary = {word: index for index, word in enumerate(["[UNK]", "the", "cat", "sat"])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path / "model"
    folder.mkdir()
    for path in folders["own-head"].iterdir():
        (folder / path.name).symlink_to(path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]"
    ).save_pretrained(folder)
    text = tmp_path / "text.txt"
    text.write_text("the cat sat\n" * 10)
    command = ("--stream", "--bits", "32,4", "--format", "json")
    assert analyze(folder, text, tmp_path / "out", *command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["mode"] == "sketch"
    assert set(next(iter(printed["units"].values()))) == {"w32", "w4g16-zp", "w4g32-zp"}


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--method", "gptq"), 2, "--method gptq rounds for the inputs of layers"),
        (("--method", "clip"), 2, "choose rtn, squant or hqq"),
        (("--activations", "static"), 2, "--activations static needs the ranges"),
        (("--equalize", "all"), 2, "--equalize all rewrites the whole model"),
        (("--model", "demo"), 2, "but --model is 'demo'; pass such a folder"),
        (("--model", "x.py:load"), 2, "pass such a folder, or leave out --stream"),
        (("--calibration", "absent.txt"), 1, "calibration 'absent.txt' does not exist"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_refusals(
    options: tuple[str, ...], status: int, words: str, folders: dict[str, Path], data: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert analyze(folders["own-head"], data, tmp_path / "out", "--stream", *options) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
