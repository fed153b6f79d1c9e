"""Tiny causal language models with random weights, and a tokenizer, for the tests of GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixq.calibration import Calibration
from mixq.export.source import Source
from mixq.formats import Format

from ..plans import plan_for

VOCABULARY = 320
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    "attn_implementation": "eager",
}  # fmt: skip
TEXTS = (
    "The quick brown fox jumps over the lazy dog; it's 12,345 times he'd done so.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.\n\n  (1999)",
)


def tiny(kind: str, **changes: Any) -> nn.Module:
    """A model of a `model_type` of transformers, the same every time."""
    import transformers

    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **changes})
    torch.manual_seed(0)
    build: Any = transformers.AutoModelForCausalLM
    model: nn.Module = build.from_config(config).float().eval()
    with torch.no_grad():  # norms and biases start as ones and zeros, which hide mistakes
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 8)
            else:
                parameter.mul_(4)
    return model


def calibration(samples: int = 2, tokens: int = 24) -> Calibration:
    ids = torch.randint(
        0, VOCABULARY, (samples, tokens), generator=torch.Generator().manual_seed(1)
    )
    return Calibration.of([{"input_ids": ids}])


def source_of(model: nn.Module, folder: Path, *formats: str) -> Source:
    plan = plan_for(model, *(Format.parse(name) for name in formats))
    return Source.of(model, plan, calibration(), folder)


def tokenizer_folder(folder: Path, *steps: Any) -> Path:
    """A folder with a byte-level BPE tokenizer, trained on two sentences.

    Args:
        folder: where to.
        steps: of `tokenizers.pre_tokenizers`; GPT-2's if there are none.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    default = (pre_tokenizers.ByteLevel(add_prefix_space=False),)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps or default))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 10,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return saved(tokenizer, folder)


def pieces_folder(folder: Path) -> Path:
    """A folder with a tokenizer as transformers converts it from SentencePiece's BPE."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    sample = Tokenizer(models.BPE())
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    sample.normalizer = normalizers.Sequence(steps)
    trainer = trainers.BpeTrainer(vocab_size=240, show_progress=False)
    sample.train_from_iterator(TEXTS, trainer)
    pieces = sorted(sample.get_vocab().items(), key=lambda item: item[1])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    names = ["<unk>", "<s>", "</s>", *byte_tokens, *(name for name, _ in pieces)]
    vocabulary = {name: index for index, name in enumerate(names)}
    merges = [
        (name[:cut], name[cut:])
        for name in names
        for cut in range(1, len(name))
        if name not in byte_tokens and name[:cut] in vocabulary and name[cut:] in vocabulary
    ]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return saved(tokenizer, folder)


def saved(tokenizer: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|end|>", "eos_token": "<|end|>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
