"""Transformer: the operations of a network from the numbers of its published configuration.

Norms, softmax, activations and the moving of heads are `norm` work, in floats; biases and residual
additions ride on the products. Attention reads every key and value once per group of query heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from mixq.predict.models.workload import Operation, Workload


@dataclass(frozen=True, slots=True)
class Transformer:
    """A configuration; the names follow Hugging Face's config.json.

    Attributes:
        name: canonical.
        layers, hidden, heads, ffn, vocab: of the encoder, or of the only stack.
        kv_heads: heads of keys and values; 0 is `heads`.
        head_size: 0 is hidden / heads.
        gated: whether the feed-forward part has a gate (three matrices).
        decoder_layers: of the second stack (BART, T5); 0 is none.
        causal: whether it predicts tokens one after the other.
        embedding: width of the table of tokens; 0 is `hidden`.
        positions, types: rows of the other tables.
        tied: whether the head is the table of tokens.
        pooler: whether a dense layer follows the first token.
        shared: whether all layers share weights (ALBERT).
        experts, active: matrices of the feed-forward part, and how many a token meets.
        window: tokens that a token attends to; 0 is all.
        patches: image patches of `patch` numbers that take the place of tokens; 0 for texts.
        patch: numbers of one patch.
        groups: of the convolutions that SqueezeBERT has for products.
        relative: products of positions beside each product of keys (DeBERTa 2, XLNet 1).
        bottleneck: width inside a layer (MobileBERT); 0 is none.
        ffns: feed-forward parts per layer.
        image: name of a table whose network runs before it (LayoutLM's picture); empty is none.
        memory: tokens of before whose keys and values are computed again (Transformer-XL).
        extra: parameters that the formula does not count.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int = 0
    kv_heads: int = 0
    head_size: int = 0
    gated: bool = False
    decoder_layers: int = 0
    causal: bool = False
    embedding: int = 0
    positions: int = 0
    types: int = 0
    tied: bool = True
    pooler: bool = False
    shared: bool = False
    experts: int = 1
    active: int = 1
    window: int = 0
    patches: int = 0
    patch: int = 768
    groups: int = 1
    relative: int = 0
    bottleneck: int = 0
    ffns: int = 1
    image: str = ""
    memory: int = 0
    extra: int = 0

    @property
    def queries(self) -> int:
        """Width of all query heads."""
        return self.heads * (self.head_size or self.inner // self.heads)

    @property
    def keys(self) -> int:
        """Width of all key heads; values are as wide."""
        return (self.kv_heads or self.heads) * (self.head_size or self.inner // self.heads)

    @property
    def inner(self) -> int:
        """Width at which a layer works."""
        return self.bottleneck or self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole network, biases and norms included."""
        matrices = self._attention_weights() + self._ffn_weights(self.experts)
        small = 9 * self.hidden + 2 * self.ffn if not self.causal else 2 * self.hidden
        layers = (1 if self.shared else self.layers) * (matrices + small)
        decoder = self.decoder_layers * (matrices + self._attention_weights() + small)
        width = self.embedding or self.hidden
        tables = (self.vocab + self.positions + self.types) * width
        tables += 0 if self.tied else self.vocab * self.hidden
        tables += self.embedding * self.hidden
        pictures = self.patch * self.hidden if self.patches else 0
        pooler = self.hidden * (self.hidden + 1) if self.pooler else 0
        return layers + decoder + tables + pictures + pooler + self.extra

    def kv_numbers(self) -> int:
        """Numbers that one token adds to the cache of keys and values."""
        return 2 * self.layers * self.keys

    def forward(self, batch: int, tokens: int, answer: int | None = None) -> Workload:
        """One pass over `tokens` tokens of `batch` samples; causal networks predict the next.

        Args:
            batch: samples.
            tokens: of the encoder, or of the prompt.
            answer: tokens of the second stack, by default as many.
        """
        rows = batch * tokens
        operations = self._embed(rows)
        operations += self._layers(self.layers, batch, tokens, tokens)
        if self.decoder_layers:
            after = answer or tokens
            operations += self._layers(self.decoder_layers, batch, after, after)
            operations += self._attend(self.decoder_layers, batch, after, tokens, queried=True)
        if self.pooler:
            operations.append(self._product(batch, self.hidden, self.hidden))
        if self.causal:
            operations.append(self._head(batch))
        return Workload(self.name, self.parameters, tuple(operations))

    def decode(self, batch: int, context: int) -> Workload:
        """One step that adds a token to each of `batch` texts of `context` tokens."""
        operations = self._embed(batch)
        operations += self._layers(self.layers, batch, 1, max(1, context))
        operations.append(self._head(batch))
        return Workload(self.name, self.parameters, tuple(operations))

    def linear_layers(self, batch: int) -> Workload:
        """The products of all layers alone, as kernels are compared."""
        kept = tuple(
            each for each in self._layers(self.layers, batch, 1, 1) if each.kind == "gemm"
        )
        return Workload(self.name, self.parameters, kept)

    def _attention_weights(self) -> int:
        narrow = 2 * self.hidden * self.bottleneck + self.bottleneck**2 if self.bottleneck else 0
        qkv = self.inner * (self.queries + 2 * self.keys) // self.groups
        # MobileBERT's keys and queries read the bottleneck and its values the whole width.
        wide = (self.hidden - self.inner) * self.keys if self.bottleneck else 0
        return qkv + wide + self.queries * self.inner + narrow + self.relative * self.inner**2

    def _ffn_weights(self, experts: int) -> int:
        matrices = (3 if self.gated else 2) * self.inner * self.ffn * self.ffns
        return matrices * experts // self.groups

    def _embed(self, rows: int) -> list[Operation]:
        width = self.embedding or self.hidden
        if self.patches:
            return [self._product(rows, self.hidden, self.patch)]
        found = [Operation("gather", m=rows, n=width, weights=rows * width, written=rows * width)]
        if self.embedding:
            found.append(self._product(rows, self.hidden, self.embedding))
        return found

    def _head(self, batch: int) -> Operation:
        return Operation(
            "gemm", m=batch, n=self.vocab, k=self.hidden, weights=self.vocab * self.hidden,
            read=batch * self.hidden, written=batch * self.vocab, role="head",
        )  # fmt: skip

    def _layers(self, count: int, batch: int, tokens: int, context: int) -> list[Operation]:
        rows, inner = batch * tokens, self.inner
        found = self._attend(count, batch, tokens, context)
        if self.bottleneck:
            found += [
                self._product(rows, inner, self.hidden, 2 * count),
                self._product(rows, self.hidden, inner, count),
            ]
        ways = count * self.ffns
        # Rows that an expert meets, when tokens spread evenly.
        met = min(self.experts, rows * self.active)
        each = max(1, rows * self.active // met)
        wide = self.ffn * (2 if self.gated else 1)
        found += [
            self._product(
                each, wide // self.groups, inner // self.groups, ways * met, self.groups
            ),
            self._product(
                each, inner // self.groups, self.ffn // self.groups, ways * met, self.groups
            ),
            _plain(rows * self.ffn * self.active, ways),
            _plain(rows * inner, ways),
        ]
        return found

    def _attend(
        self, count: int, batch: int, tokens: int, context: int, *, queried: bool = False
    ) -> list[Operation]:
        """Attention of `count` layers; `queried` means to another stack's output."""
        rows, inner = batch * tokens, self.inner
        seen = min(context, self.window) if self.window else context
        size = self.queries // self.heads
        if queried:
            found = [
                self._product(rows, self.queries, inner, count),
                self._product(batch * context, 2 * self.keys, inner, count),
            ]
        else:
            joined = (self.queries + 2 * self.keys) // self.groups
            seen += self.memory
            held = rows + batch * self.memory
            found = [self._product(held, joined, inner // self.groups, count, self.groups)]
        # Every key and value is read once for all the query heads that share it.
        found += [
            Operation(
                "attention", m=tokens, n=seen, k=size, groups=batch * self.heads, count=count,
                repeats=2 + self.relative, read=rows * self.queries + 2 * batch * seen * self.keys,
                written=rows * self.queries,
            ),
            self._product(rows, inner, self.queries, count),
            _plain(rows * self.heads * seen, count * (1 + self.relative)),
            _plain(rows * inner, count),
        ]  # fmt: skip
        if self.relative:
            positions = self.memory + tokens if self.memory else min(2 * tokens, 1024)
            found.append(self._product(positions, inner, inner, count * self.relative))
        if tokens > 1:
            found.append(_plain(rows * self.queries, 2 * count))
        return found

    def _product(
        self, rows: int, outputs: int, inputs: int, count: int = 1, groups: int = 1
    ) -> Operation:
        return Operation(
            "gemm" if groups == 1 else "conv", m=rows, n=outputs, k=inputs, groups=groups,
            weights=outputs * inputs * groups, read=rows * inputs * groups,
            written=rows * outputs * groups, count=count,
        )  # fmt: skip


def _plain(numbers: float, count: int) -> Operation:
    return Operation("elementwise", read=numbers, written=numbers, count=count, role="norm")
