"""The suite file: what it may say, and where its paths lead."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixq.bench.suite_file import METHODS, load_suite
from mixq.errors import UsageError

EXAMPLE = Path(__file__).parents[2] / "examples" / "bench_suite.toml"
MODEL = 'name = "s"\n[[models]]\nname = "m"\nspec = "demo"\n'
MIXED = "[models.mixed]\ntarget_compression = 6\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_is_whole_and_its_files_are_there() -> None:
    suite = load_suite(EXAMPLE)
    assert suite.methods == METHODS
    assert suite.models[0].spec == "demo"
    for model in suite.models[1:]:
        file, _, function = model.spec.rpartition(":")
        assert f"def {function}(" in Path(file).read_text(encoding="utf-8")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    for name in ("m.py", "words.txt"):
        (tmp_path / name).write_text("", encoding="utf-8")
    file = written(
        tmp_path,
        'name = "s"\n[[models]]\nname = "m"\nspec = "m.py:load"\ncalibration = "words.txt"\n'
        '[models.mixed]\nplan = "run/plan.json"\n'
        '[[models.data]]\nname = "a"\nevaluate = "m.py:judge"\n'
        '[[models.data]]\nname = "b"\nevaluate = "some.module:judge"\n',
    )
    (model,) = load_suite(file).models
    assert model.spec == str(tmp_path / "m.py:load")
    assert model.calibration == str(tmp_path / "words.txt")
    assert model.mixed is not None
    assert model.mixed.plan == str(tmp_path / "run" / "plan.json")
    assert [data.evaluate for data in model.data] == [
        str(tmp_path / "m.py:judge"), "some.module:judge",
    ]  # fmt: skip


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, MODEL + MIXED))
    assert (suite.runtime, suite.threads, suite.batch_size) == ("onnxruntime", 1, 1)
    (model,) = suite.models
    assert [data.name for data in model.data] == ["its own"]
    assert model.mixed is not None
    assert model.mixed.hardware == "intel_cpu"


REFUSED = {
    "no-toml": ("name = ", "not readable as TOML"),
    "empty": ("", "name: Field required"),
    "no-models": ('name = "s"\nmodels = []', "models"),
    "unknown-key": ("speed = 1\n" + MODEL + MIXED, "speed: Extra inputs are not permitted"),
    "unknown-model-key": (MODEL + "weights = 1\n" + MIXED, "models.0.weights: Extra inputs"),
    "method": ('methods = ["int3"]\n' + MODEL, "methods.0: Input should be 'fp32'"),
    "no-methods": ("methods = []\n" + MODEL, "methods: Tuple should have at least 1"),
    "threads": ("threads = 0\n" + MODEL + MIXED, "threads: Input should be greater than or equal"),
    "threads-word": ('threads = "2"\n' + MODEL + MIXED, "threads: Input should be a valid int"),
    "no-mixed": (MODEL, "model 'm' has no [models.mixed]"),
    "mixed-twice": (MODEL + MIXED + 'plan = "p.json"\n', "models.0.mixed: give either plan or"),
    "mixed-empty": (MODEL + "[models.mixed]\n", "models.0.mixed: give either plan or"),
    "compression": (MODEL + "[models.mixed]\ntarget_compression = -6\n", "greater than 0"),
    "names": (MODEL + MIXED + MODEL.partition("\n")[2] + MIXED, "two models have one name"),
    "data-names": (
        MODEL + MIXED + '[[models.data]]\nname = "d"\n' * 2,
        "two data sets of model 'm' have one name",
    ),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_a_broken_rule_names_the_file_and_the_key(tmp_path: Path, text: str, words: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UsageError) as refused:
        load_suite(file)
    message = str(refused.value)
    assert words in message
    assert "suite.toml" in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"suite .*none\.toml is not a file"):
        load_suite(tmp_path / "none.toml")
