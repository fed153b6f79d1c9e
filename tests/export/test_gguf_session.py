"""A GGUF file that llama.cpp has loaded: batches, and files that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixq.errors import ExportError
from mixq.export.gguf import Gguf

from .gguf_models import VOCABULARY, calibration, source_of, tiny, tokenizer_folder

pytest.importorskip("gguf", reason="an extra")
pytest.importorskip("cyllama", reason="an extra")
pytest.importorskip("transformers", reason="an extra")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such thing" * 99], ids=len)
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"llama.cpp does not load .*model.gguf") as refusal:
        Gguf().open(path)
    assert "\n" not in str(refusal.value)


def test_a_truncated_file_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    Gguf().write(source_of(tiny("llama"), tokenizer, "w8g32"), path)
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(ExportError, match=r"llama\.cpp does not load"):
        Gguf().open(path)


def test_batches(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    Gguf().write(source_of(tiny("llama"), tokenizer, "w32"), path)
    session = Gguf().open(path)
    (batch,) = calibration(samples=3, tokens=5).batches
    assert isinstance(batch, dict)
    ids = batch["input_ids"]
    together = session.run(batch)["logits"]
    assert together.shape == (3, 5, VOCABULARY)
    for index in range(3):
        assert torch.equal(session.logits(ids[index].tolist()), together[index])
    for tokens in (300, 400):  # more than fits into the first context, and what fits into that
        long = torch.arange(tokens).remainder(VOCABULARY)[None]
        assert session.run({"input_ids": long})["logits"].shape == (1, tokens, VOCABULARY)
    ones = torch.ones_like(ids)
    padded = {"input_ids": ids, "attention_mask": ones.index_fill(1, torch.tensor([4]), 0)}
    assert torch.equal(session.run(padded)["logits"], together)
    left = {"input_ids": ids, "attention_mask": ones.index_fill(1, torch.tensor([0]), 0)}
    with pytest.raises(ExportError, match="padded on its left"):
        session.run(left)
    with pytest.raises(ExportError, match="takes input_ids and attention_mask"):
        session.run(ids)
    with pytest.raises(ExportError, match=f"token {VOCABULARY} is not in 0..{VOCABULARY - 1}"):
        session.run({"input_ids": torch.tensor([[1, VOCABULARY]])})
    session.close()
