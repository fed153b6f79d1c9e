"""Files that people bring: profiles, recipes, suites, tables, calibration data, models."""

from __future__ import annotations

import io
import json
import warnings
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from mixq.bench.candidate import runtime_of
from mixq.bench.suite_file import SuiteFile, load_suite
from mixq.calibration import Calibration
from mixq.export.gguf.tokenizer import split_name, tokenizer_json
from mixq.predict.predict import Predictor
from mixq.predict.rows import ADDED, cells_of, read_rows, write_rows
from mixq.profiles import Profile
from mixq.profiles import load as load_profile
from mixq.search.recipe import Recipe
from mixq.search.recipe import load as load_recipe
from mixq.sources import LoadedModel, load_model, text
from mixq.sources.tensors import load_npz, load_safetensors
from mixq.streaming.shards import Shards

from .containers import archive, npy_member, program_member, safetensors_file
from .mutate import csv_text, json_text, plain, toml_text
from .run_targets import X, _finite, model
from .target import Target

ROOT = Path(__file__).parents[2]


def _profile_seeds(folder: Path) -> list[bytes]:
    shipped = sorted((ROOT / "profiles").glob("*.toml"), key=lambda path: path.stat().st_size)
    whole = shipped[0].read_bytes()
    (folder / "base.toml").write_bytes(whole)
    name = shipped[0].stem
    return [
        whole,
        f'name = "mine"\nextends = "{name}"\n[chip]\ncores = 4\n'.encode(),
        b'name = "mine"\nextends = "base.toml"\n[chip]\ncores = 4\n',
    ]


def _check_profile(profile: Profile, path: Path) -> None:
    assert load_profile(str(path)) == profile
    assert profile.fingerprint.isprintable()


def _recipe_seeds(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "search" / "recipes").glob("*.toml"))]


def _check_recipe(recipe: Recipe, path: Path) -> None:
    assert load_recipe(path) == recipe
    _finite(dict(recipe.budget))


def _suite_seeds(_: Path) -> list[bytes]:
    return [(ROOT / "examples" / "bench_suite.toml").read_bytes()]


def _check_suite(suite: SuiteFile, path: Path) -> None:
    assert load_suite(path) == suite


HEADER = (
    "chip,cores_or_threads,runtime,kernel,model_or_op,M,N,K,batch,seq,weight_bits,act_bits,"
    "group_size,metric,value,unit,note"
)
ROWS = (
    "Intel Xeon,4,,,gemm,16,1024,1024,1,,8,32,32,latency,1.5,us,x",
    "Intel Xeon,4,,,bert-base,,,,1,128,8,32,,latency,10,ms,",
    "NVIDIA A100,,,,llama-2-7b,,,,1,prompt 8 gen 8,4,16,128,decode throughput,50,tokens/s,",
    "NVIDIA A100,,,,gemm,1,4096,4096,1,,4,16,128,speedup,2,x,",
)


def _rows_seeds(_: Path) -> list[bytes]:
    return ["\n".join((HEADER, *ROWS, "")).encode(), "\n".join((HEADER, ROWS[0], "")).encode()]


@cache
def _predictor() -> Predictor:
    return Predictor("intel_cpu")


def _read_rows(path: Path) -> Any:
    header, rows = read_rows(path)
    return header, rows, [_predictor().predict(row) for row in rows[:5]]


def _check_rows(found: Any, path: Path) -> None:
    header, rows, answers = found
    for answer in answers:
        if hasattr(answer, "predicted"):
            _finite([answer.predicted, answer.low, answer.high])
            assert 0 <= answer.low <= answer.predicted <= answer.high
        else:
            assert len(answer.reason) < 4000
    again = path.with_name("again.csv")
    pairs = [(row, cells_of(row, a)) for row, a in zip(rows, answers, strict=False)]
    write_rows(again, header, pairs, ADDED)
    kept = [name for name in header if name not in ADDED]
    _, read = read_rows(again)
    for (row, _), other in zip(pairs, read, strict=True):
        assert [dict(row.cells)[n] for n in kept] == [dict(other.cells)[n] for n in kept]


LOADED = LoadedModel("two layers", model())


def _check_calibration(calibration: Calibration, _: Path) -> None:
    for batch in calibration.batches:
        parts = batch.values() if isinstance(batch, dict) else batch
        for tensor in (batch,) if isinstance(batch, Tensor) else parts:
            assert isinstance(tensor, Tensor)
            assert len(tensor) > 0
            assert not tensor.is_floating_point() or bool(tensor.isfinite().all())
    assert len(calibration.fingerprint) > 8


def _tensors_seeds(_: Path) -> list[bytes]:
    return [save({"input": X}), save({"0": X, "1": X[:, :2].contiguous()})]


def _npz_seeds(_: Path) -> list[bytes]:
    found = []
    for write in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        write(buffer, input=X.numpy())
        found.append(buffer.getvalue())
    return found


def _tiny_folder(folder: Path) -> None:
    """A language model of two thousand weights with a tokenizer of words."""
    import tokenizers
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    words = ["[UNK]", "[PAD]", "the", "a", "cat", "dog", "sat", "on"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)


def _text_seeds(folder: Path) -> list[bytes]:
    _tiny_folder(folder)
    return [b"the cat sat\n\na dog on the cat\n", "the \u00e9 cat\r\n".encode()]


@cache
def _tokenizer(folder: Path) -> Any:
    return text._load_tokenizer(folder)


def _read_text(path: Path) -> Calibration:
    lines = text._read_lines(path)
    return Calibration.of(text._padded(_tokenizer(path.parent), lines[:50]))


def _text_mutation(data: bytes, rng: Random) -> bytes:
    from .values import STRINGS

    if rng.randrange(2):
        return plain(data, rng)
    at = rng.randrange(len(data) + 1)
    piece = rng.choice(STRINGS).encode("utf-8", "surrogatepass")
    return data[:at] + piece + data[at:]


def _config_seeds(folder: Path) -> list[bytes]:
    _tiny_folder(folder)
    return [(folder / "config.json").read_bytes()]


def _weights_seeds(folder: Path) -> list[bytes]:
    _tiny_folder(folder)
    return [(folder / "model.safetensors").read_bytes()]


def _read_folder(path: Path) -> nn.Module:
    return load_model(str(path.parent)).model


def _check_folder(made: nn.Module, _: Path) -> None:
    assert not made.training
    assert all(not parameter.is_meta for parameter in made.parameters())


def _tokenizer_seeds(folder: Path) -> list[bytes]:
    _tiny_folder(folder)
    return [(folder / "tokenizer.json").read_bytes()]


def _read_tokenizer(path: Path) -> object:
    return text._load_tokenizer(path.parent)


def _exported_seeds(folder: Path) -> list[bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(model(), (X,), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / "seed.pt2")
    return [(folder / "seed.pt2").read_bytes()]


def _read_exported(path: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model(str(path)).model


def _index_seeds(folder: Path) -> list[bytes]:
    (folder / "one.safetensors").write_bytes(save({"a": X, "b": X[0].clone()}))
    (folder / "two.safetensors").write_bytes(save({"c": X.half()}))
    places = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
    return [json.dumps({"metadata": {"total_size": 9}, "weight_map": places}).encode()]


def _read_shards(path: Path) -> tuple[Shards, dict[str, Tensor]]:
    shards = Shards(path.parent)
    return shards, shards.fetch(shards.shapes)


def _check_shards(found: tuple[Shards, dict[str, Tensor]], _: Path) -> None:
    shards, tensors = found
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shards.shapes


def _shard_seeds(_: Path) -> list[bytes]:
    return [save({"a": X, "b": X[0].clone(), "c": X.half()})]


BPE = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    "decoder": {"type": "ByteLevel"}, "normalizer": None,
    "added_tokens": [{"id": 3, "content": "<s>", "special": True}],
}  # fmt: skip
PIECES = {
    "model": {"type": "BPE", "byte_fallback": True, "vocab": {"a": 0, "b": 1, "ab": 2},
              "merges": [["a", "b"]]},
    "pre_tokenizer": None, "decoder": None,
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "added_tokens": [],
}  # fmt: skip


def _gguf_seeds(_: Path) -> list[bytes]:
    return [json.dumps(BPE).encode(), json.dumps(PIECES).encode()]


def _read_gguf(path: Path) -> object:
    return split_name(tokenizer_json(path.parent), "tokenizer.json")


def _quantized_seeds(folder: Path) -> list[bytes]:
    found = {"architectures": ["LlamaForCausalLM"], "quantization_config": {"bits": 4}}
    return [json.dumps(found).encode(), json.dumps({**found, "quantization": {}}).encode()]


def _read_quantized(path: Path) -> object:
    from mixq.export.compressed_tensors.session import _class_of

    return runtime_of(path.parent, "onnxruntime"), _class_of(path.parent)


GENERATED = ("<eval_with_key>", "<string>", "<unknown>", "<lambdifygenerated", "<attrs generated",
             "<trace type")  # fmt: skip
"""What torch.fx, sympy and dataclasses call the code that they write themselves."""

SOURCE_TARGETS = (
    Target("profile", "chip.toml", _profile_seeds, toml_text,
           lambda path: load_profile(str(path)), _check_profile, cost=6),
    Target("recipe", "r.toml", _recipe_seeds, toml_text, load_recipe, _check_recipe),
    Target("bench suite", "suite.toml", _suite_seeds, toml_text, load_suite, _check_suite),
    Target("published rows", "rows.csv", _rows_seeds, csv_text, _read_rows, _check_rows),
    Target("calibration .safetensors", "c.safetensors", _tensors_seeds, safetensors_file,
           lambda path: load_safetensors(path, LOADED), _check_calibration),
    Target("calibration .npz", "c.npz", _npz_seeds, archive(npy_member),
           lambda path: load_npz(path, LOADED), _check_calibration, generates=("<unknown>",)),
    Target("calibration text", "c.txt", _text_seeds, _text_mutation, _read_text,
           _check_calibration),
    Target("Hugging Face config", "config.json", _config_seeds, json_text, _read_folder,
           _check_folder, named="mixq-", generates=GENERATED, cost=30),
    Target("Hugging Face weights", "model.safetensors", _weights_seeds, safetensors_file,
           _read_folder, _check_folder, named="mixq-", generates=GENERATED, cost=30),
    Target("Hugging Face tokenizer", "tokenizer.json", _tokenizer_seeds, json_text,
           _read_tokenizer, named="mixq-", generates=GENERATED, cost=30),
    Target("shards", "model.safetensors", _shard_seeds, safetensors_file, _read_shards,
           _check_shards),
    Target("index of shards", "model.safetensors.index.json", _index_seeds, json_text,
           _read_shards, _check_shards, named="mixq-"),
    Target("tokenizer for GGUF", "tokenizer.json", _gguf_seeds, json_text, _read_gguf),
    Target("quantized config", "config.json", _quantized_seeds, json_text, _read_quantized,
           named="mixq-"),
    Target(".pt2 program", "m.pt2", _exported_seeds, archive(program_member), _read_exported,
           generates=GENERATED, cost=60),
)  # fmt: skip
