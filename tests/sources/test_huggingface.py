"""Hugging Face folders: the stored architecture, no download, no code; and text for them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mixq.batch import call, named_tensors
from mixq.errors import CalibrationError, MissingExtraError, SourceError
from mixq.sources import load_calibration, load_model
from mixq.sources.huggingface import import_output_classes

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "ran", "fast", "slow"]
BERT: dict[str, Any] = {
    "vocab_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
LLAMA: dict[str, Any] = {
    **BERT,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
CLASSES = {
    "BertModel": BERT,
    "BertForSequenceClassification": BERT,
    "BertForMaskedLM": BERT,
    "LlamaForCausalLM": LLAMA,
}


def save(name: str, folder: Path) -> Path:
    """A tiny random model with a tokenizer of whole words."""
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    model_class(model_class.config_class(**CLASSES[name])).save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(["[UNK]", "[PAD]", *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save(name, root / name) for name in CLASSES}


@pytest.fixture
def bert(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folders["BertModel"], tmp_path / "bert"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", list(CLASSES))
def test_the_stored_architecture_is_loaded(name: str, folders: dict[str, Path]) -> None:
    model = load_model(str(folders[name])).model
    assert type(model).__name__ == name
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    config: Any = model.config
    assert config._attn_implementation == "eager"
    assert not getattr(config, "use_cache", False)
    model_class = getattr(transformers, name)
    saved = model_class.from_pretrained(folders[name]).state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())


def test_half_precision_is_widened(bert: Path) -> None:
    transformers.BertModel.from_pretrained(bert).half().save_pretrained(bert)
    model = load_model(str(bert)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_text_for_an_encoder_is_a_line_per_sample(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    text = tmp_path / "lines.txt"
    text.write_text("the cat sat\n\n   \na dog\n" + "the dog ran fast\n" * 8 + "a " * 100)
    loaded = load_model(str(folders["BertModel"]))
    calibration = load_calibration(str(text), loaded)
    assert calibration.samples == 11
    shapes = [dict(named_tensors(batch))["input_ids"].shape for batch in calibration.batches]
    assert shapes == [(8, 4), (3, 64)]
    first = dict(named_tensors(calibration.batches[0]))
    # "the" is word 2, "cat" 4, "sat" 6; padding is 1 and masked.
    assert first["input_ids"][0].tolist() == [2, 4, 6, 1]
    assert first["attention_mask"][0].tolist() == [1, 1, 1, 0]
    call(loaded.model, calibration.batches[0])


@pytest.mark.parametrize(
    ("words", "shapes"),
    [
        pytest.param(128 * 9 + 5, [(8, 128), (1, 128)], id="full-blocks-only"),
        pytest.param(20, [(1, 20)], id="short-text-is-one-sample"),
    ],
)
def test_text_for_a_language_model_is_cut_into_blocks(
    words: int, shapes: list[tuple[int, int]], folders: dict[str, Path], tmp_path: Path
) -> None:
    text = tmp_path / "words.txt"
    stream = [WORDS[index % len(WORDS)] for index in range(words)]
    text.write_text("\n\n".join(" ".join(stream[i : i + 10]) for i in range(0, words, 10)))
    loaded = load_model(str(folders["LlamaForCausalLM"]))
    calibration = load_calibration(str(text), loaded)
    tensors = [dict(named_tensors(batch)) for batch in calibration.batches]
    assert [tuple(part["input_ids"].shape) for part in tensors] == shapes
    assert tensors[0]["input_ids"].flatten()[:12].tolist() == [*range(2, 12), 2, 3]
    call(loaded.model, calibration.batches[0])


def test_an_exported_transformer_is_read_where_transformers_was_not_imported(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    import subprocess

    loaded = load_model(str(folders["BertModel"]))
    ids = torch.ones(2, 5, dtype=torch.long)
    program = torch.export.export(loaded.model, (), kwargs={"input_ids": ids})
    torch.export.save(program, tmp_path / "m.pt2")
    code = (
        "import torch\nfrom mixq.sources import load_model\n"
        f"model = load_model({str(tmp_path / 'm.pt2')!r}).model\n"
        "with torch.no_grad():\n"
        "    out = model(input_ids=torch.ones(2, 5, dtype=torch.long))\n"
        "print(type(out).__name__, float(out.last_hidden_state.sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kind, total = done.stdout.split()
    with torch.no_grad():
        expected = loaded.model(input_ids=ids)
    assert kind == type(expected).__name__
    # Same operations in the same order on the same machine; printed in full.
    assert float(total) == float(expected.last_hidden_state.sum())


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def lacking_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["pooler.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def remote_code(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemError('code of the folder ran')\n")
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    edit_config(folder, auto_map=auto_map, model_type="evil", architectures=["Model"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda f: (f / "config.json").unlink(), "no config.json", id="no-config"),
        pytest.param(
            lambda f: (f / "config.json").write_text("{"), "is not valid JSON", id="json"
        ),
        pytest.param(
            lambda f: (f / "config.json").write_text("[1]"), "no JSON object", id="json-list"
        ),
        pytest.param(no_weights, "has no weights", id="no-weights"),
        pytest.param(only_pickled, r"only pickled weights \(pytorch_model.bin\)", id="pickled"),
        pytest.param(cut_weights, "cannot be loaded", id="cut-weights"),
        pytest.param(lacking_weights, "lacks 1 weights.*pooler.dense.weight", id="lacking"),
        pytest.param(
            lambda f: edit_config(f, hidden_size=32), "cannot be loaded|wrong shape", id="shapes"
        ),
        pytest.param(
            lambda f: edit_config(f, hidden_size=65_536),
            "^folder .* asks for .* parameters",
            id="16-gigabytes",
        ),
        pytest.param(lambda f: edit_config(f, hidden_size="x"), "cannot be loaded", id="type"),
        pytest.param(
            lambda f: edit_config(f, model_type="no_such", architectures=None),
            "cannot be loaded",
            id="kind",
        ),
        pytest.param(
            lambda f: edit_config(f, architectures=["GPT2Model"]), "cannot be|lacks", id="class"
        ),
        pytest.param(
            lambda f: edit_config(f, quantization_config={"bits": 4}), "already", id="quantized"
        ),
        pytest.param(remote_code, "auto_map", id="remote-code"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(
    damage: Callable[[Path], None], message: str, bert: Path
) -> None:
    damage(bert)
    with pytest.raises(SourceError, match=message) as caught:
        load_model(str(bert))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["os", "AutoModel", "pipeline", "BertConfig", "../evil", "", 3], ids=str
)
def test_an_architecture_that_is_no_model_is_ignored(name: object, bert: Path) -> None:
    edit_config(bert, architectures=[name])
    assert type(load_model(str(bert)).model).__name__ == "BertModel"


def test_pickled_weights_beside_safetensors_are_never_loaded(
    bert: Path, trap: Callable[[Path], bytes]
) -> None:
    (bert / "model.safetensors").rename(bert / "other.safetensors")
    (bert / "pytorch_model.bin").write_bytes(trap(bert / "sprung"))
    with pytest.raises(SourceError, match="safetensors"):
        load_model(str(bert))
    assert not (bert / "sprung").exists()


def test_auto_map_of_a_built_in_class_is_ignored(bert: Path) -> None:
    (bert / "evil.py").write_text("raise SystemError('code of the folder ran')\n")
    edit_config(bert, auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})
    assert type(load_model(str(bert)).model).__name__ == "BertModel"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        pytest.param(b"", CalibrationError, "no non-empty line", id="empty"),
        pytest.param(b"\n \n", CalibrationError, "no non-empty line", id="blank"),
        pytest.param(b"\xff\xfe\xfa", SourceError, "UTF-8", id="binary"),
    ],
)
def test_unusable_text_is_refused(
    content: bytes,
    error: type[Exception],
    message: str,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        load_calibration(str(tmp_path / "x.txt"), load_model(str(folders["BertModel"])))


def test_a_folder_without_tokenizer_is_refused(bert: Path, tmp_path: Path) -> None:
    for file in bert.glob("tokenizer*"):
        file.unlink()
    (tmp_path / "x.txt").write_text("the cat\n")
    with pytest.raises(SourceError, match="has no tokenizer") as caught:
        load_calibration(str(tmp_path / "x.txt"), load_model(str(bert)))
    assert "\n" not in str(caught.value)


def test_without_transformers_the_install_line_is_named(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mixq\[hf\]'"):
        load_model(str(bert))
    with pytest.raises(MissingExtraError, match=r"pip install 'mixq\[hf\]'"):
        import_output_classes(["transformers.modeling_outputs.BaseModelOutput"])


def test_an_output_class_that_is_gone_is_named() -> None:
    with pytest.raises(SourceError, match=r"returns a transformers\.no_such\.Output"):
        import_output_classes(["transformers.no_such.Output"])
