"""Job: what a row about a whole model runs, as passes over workloads."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from mixq.errors import UsageError
from mixq.files import one_line
from mixq.predict.models import catalogue
from mixq.predict.models.names import canonical
from mixq.predict.models.transformer import Transformer
from mixq.predict.models.workload import Workload
from mixq.predict.row import RATIO, Row

TASK_TOKENS: Final = {
    "squad": 384, "funsd": 512, "layoutlm": 512, "wikitext": 1024, "crime": 1024, "mrpc": 128,
}  # fmt: skip
"""Tokens of one sample where the table has none: lengths that the tasks' scripts pad to."""
TOKENS: Final = 128
"""Tokens of a sample of any other task."""
PICTURE_TOKENS: Final = {"layoutlm_v2": 49, "layoutlm_v3": 197}
"""Patches that follow the 512 tokens of a document."""
CONTEXT: Final = 128
"""Tokens behind a decoded one where the table does not say."""
GPU_GIB: Final = {"40gb": 40, "h200": 141}
"""Memory of a GPU by a part of its name; the others have 80 GiB."""
FREE_SHARE: Final = 0.9
"""Of the memory, for weights and keys and values; the rest is for activations and the runtime."""
MOST_BATCH: Final = 256
OTHERWISE: Final = (
    # The ONNX Model Zoo's Inception v1 is Caffe's GoogLeNet, with local response normalization.
    ("onnx", "inception_v1", "googlenet"),
    # 4.07 ms on one Cortex-A76 are less than its peak rate allows for width 1.0.
    ("paddle", "shufflenet_v2_x1_0", "shufflenet_v2_x0_5"),
)
"""What a runtime's name contains, a network, and which one its tables mean by that."""
SHORTER: Final = ("onnx runtime 1.11", "mrpc", 64)
"""Sentences of Neural Compressor 1.14's ONNX Runtime table, whose fp32 rates on a Xeon 8380 exceed
its peak if they had 128 tokens; inferred from BERT, RoBERTa, DistilBERT and MobileBERT alike. The
rows called DYNAMIC have the usual length."""
UNNAMED: Final = r"(the |an? )?(model|network) (as|of|un)"
"""Names that say that the table does not name the model."""
TYPICAL: Final = "mistral_7b"
"""What an unnamed language model is taken for: of the most usual size."""
UNNAMED_NOTE: Final = "the table does not name the model, taken as one of 7 billion parameters;"


@dataclass(frozen=True, slots=True)
class Job:
    """Passes of one network.

    Attributes:
        network: canonical name.
        phase: `forward`, `prefill`, `decode`, `generate`, `serving` or `linear`.
        passes: workloads and how often each runs.
        things: samples or tokens that a rate counts for all of it.
        cache_bits: of keys and values.
        note: what was assumed, in words.
    """

    network: str
    phase: str
    passes: tuple[tuple[Workload, float], ...]
    things: float
    cache_bits: float = 16
    note: str = ""


def job_of(row: Row) -> Job:
    """What `row` runs.

    Raises:
        UsageError: if the model is unknown or cannot do what the metric counts; one line.
    """
    unnamed = re.match(UNNAMED, row.model_or_op, re.IGNORECASE) is not None
    name = TYPICAL if unnamed else canonical(row.model_or_op)
    plain = f"{row.model_or_op} {row.metric}".lower()
    found = catalogue.transformer(name)
    batch = row.batch or 1
    for runtime, plainly, meant in OTHERWISE:
        if name == plainly and runtime in row.runtime.lower():
            name = meant
    if found is None:
        work = catalogue.network(name, batch)
        return Job(name, "forward", ((work, 1),), batch, note=work.note)
    job = _transformer_job(found, row, plain, batch)
    if unnamed:
        job = replace(job, note=f"{UNNAMED_NOTE} {job.note}".strip())
    return job


def _transformer_job(model: Transformer, row: Row, plain: str, batch: int) -> Job:
    parts = re.findall(r"\d+", row.seq) if "x" not in row.seq else []
    if any(len(part) > 9 or int(part) == 0 for part in parts):
        raise UsageError(
            f"seq {one_line(row.seq, 40)!r} has a length of zero, or of more than nine digits"
        )
    lengths = [int(part) for part in parts]
    if "linear layers" in plain:
        return Job(model.name, "linear", ((model.linear_layers(row.m or batch), 1),), batch)
    if not model.causal:
        return _encoder_job(model, row, plain, batch, lengths)
    if "decode" in plain or (row.unit == RATIO and "generate" in plain):
        context = lengths[0] // 2 if lengths else CONTEXT
        note = "" if lengths else f"{CONTEXT} tokens of context"
        return Job(model.name, "decode", ((model.decode(batch, context), 1),), batch, note=note)
    if "serving" in plain or "max_throughput" in plain:
        prompt, answer = [*lengths, CONTEXT, CONTEXT][:2]
        cache_bits = _cache_bits(row)
        size = row.batch or _batch_in_memory(model, row, prompt + answer, cache_bits)
        passes = _generation(model, size, prompt, answer)
        note = "" if row.batch else f"batch {size} fits the memory"
        return Job(model.name, "serving", passes, size * answer, cache_bits=cache_bits, note=note)
    if "generate" in plain or "e2e" in plain:
        prompt, answer = [*lengths, CONTEXT, CONTEXT][:2]
        return Job(
            model.name, "generate", _generation(model, batch, prompt, answer), batch * answer
        )
    tokens = lengths[0] if lengths else (row.m or 512)
    things = batch * tokens if "tok" in row.unit else batch
    return Job(model.name, "prefill", ((model.forward(batch, tokens), 1),), things)


def _encoder_job(model: Transformer, row: Row, plain: str, batch: int, lengths: list[int]) -> Job:
    note = ""
    if model.patches:
        tokens = model.patches + 1
    elif lengths:
        tokens = lengths[0]
    else:
        task = next((task for task in TASK_TOKENS if task in plain), "")
        tokens = TASK_TOKENS.get(task, TOKENS)
        if SHORTER[0] in row.runtime.lower() and task == SHORTER[1] and "dynamic" not in plain:
            tokens = SHORTER[2]
        note = f"{tokens} tokens"
    tokens += PICTURE_TOKENS.get(model.name, 0)
    work = model.forward(batch, tokens)
    if model.image:
        work = catalogue.joined(model.name, work, catalogue.network(model.image, batch))
    return Job(model.name, "forward", ((work, 1),), batch, note=note)


def _generation(
    model: Transformer, batch: int, prompt: int, answer: int
) -> tuple[tuple[Workload, float], ...]:
    return (
        (model.forward(batch, prompt), 1),
        (model.decode(batch, prompt + answer // 2), max(1, answer - 1)),
    )


def _cache_bits(row: Row) -> float:
    named = re.search(r"KV(\d+)", row.kernel)
    if named:
        return int(named[1])
    return 16 if row.weight_bits >= 16 else 4 if row.activation_bits == 4 else 8


def _batch_in_memory(model: Transformer, row: Row, tokens: int, cache_bits: float) -> int:
    """Texts whose keys and values fit beside the weights.

    Raises:
        UsageError: if not one does.
    """
    gib = next((size for part, size in GPU_GIB.items() if part in row.chip.lower()), 80)
    head = 2 * model.vocab * model.hidden
    weights = (model.parameters - head) * row.weight_bits / 8 + 2 * head
    free = FREE_SHARE * gib * 2**30 - weights
    batch = int(free // (model.kv_numbers() * cache_bits / 8 * tokens))
    if batch < 1:
        raise UsageError(
            f"line {row.line}: {model.name} in {row.weight_bits:g} bits leaves no room for one "
            f"text of {tokens} tokens in {gib} GiB; take fewer bits"
        )
    return min(batch, MOST_BATCH)
