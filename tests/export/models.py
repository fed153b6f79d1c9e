"""Small models of every kind that is exported, with inputs, and sources of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixq.batch import Batch
from mixq.calibration import Calibration
from mixq.export.source import Source
from mixq.formats import Format
from mixq.graph.find import find_units
from tests.plans import calibrated_plan_for


class Transposed(nn.Module):
    """A head that shares the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 64)
        self.head = nn.Linear(64, 40, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(tokens).tanh())
        return logits


class Recurrent(nn.Module):
    """Two layers of LSTM in both directions and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(48, 20, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gru(self.lstm(x)[0])[0]
        return out


class Raw(nn.Module):
    """Parameters that belong to no layer, one of them with three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(6, 32))
        self.experts = nn.Parameter(torch.randn(3, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bsi,eij->bsj", x + self.position, self.experts)


class Attention(nn.Module):
    """torch's own attention, whose three input projections are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


class Two(nn.Module):
    """Two inputs by name, and outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(32, 16), nn.Linear(48, 16)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"sum": self.left(a) + self.right(b), "left": self.left(a)}


class Copies(nn.Module):
    """Several models on one input: tracing one graph of many takes less than many of one."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for index, model in enumerate(self.models):
            output = model(*inputs)
            outputs[f"out{index}"] = output["sum"] if isinstance(output, dict) else output
        return outputs


@dataclass(frozen=True)
class Case:
    """A model and one batch of its inputs."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Batch]


CASES = {
    "linear": Case(lambda: nn.Linear(96, 24), lambda: torch.randn(4, 96)),
    "linear-3d": Case(lambda: nn.Linear(96, 24), lambda: torch.randn(3, 5, 96)),
    "linear-without-bias": Case(lambda: nn.Linear(96, 24, bias=False), lambda: torch.randn(4, 96)),
    "linear-odd": Case(lambda: nn.Linear(75, 13), lambda: torch.randn(4, 75)),
    "linear-wide": Case(lambda: nn.Linear(128, 40), lambda: torch.randn(4, 128)),
    "linear-narrow": Case(lambda: nn.Linear(7, 5), lambda: torch.randn(4, 7)),
    "convolution": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        ),
        lambda: torch.randn(2, 3, 9, 9),
    ),
    "depthwise": Case(
        lambda: nn.Conv2d(8, 8, 5, groups=8, stride=2), lambda: torch.randn(2, 8, 11, 11)
    ),
    "convolution-1d": Case(lambda: nn.Conv1d(20, 8, 9), lambda: torch.randn(2, 20, 30)),
    "transposed-convolution": Case(
        lambda: nn.ConvTranspose1d(20, 8, 4), lambda: torch.randn(2, 20, 9)
    ),
    "embedding": Case(lambda: nn.Embedding(50, 48), lambda: torch.randint(0, 50, (2, 6))),
    "embedding-bag": Case(
        lambda: nn.Sequential(nn.Embedding(30, 20), nn.Linear(20, 8)),
        lambda: torch.randint(0, 30, (2, 6)),
    ),
    "tied": Case(Transposed, lambda: torch.randint(0, 40, (2, 6))),
    "recurrent": Case(Recurrent, lambda: torch.randn(2, 5, 16)),
    "attention": Case(Attention, lambda: torch.randn(2, 6, 64)),
    "raw": Case(Raw, lambda: torch.randn(2, 6, 32)),
    "named": Case(Two, lambda: {"a": torch.randn(3, 32), "b": torch.randn(3, 48)}),
}


def source_of(case: str, *formats: str) -> Source:
    """A source of a case whose units take these formats in turn."""
    torch.manual_seed(0)
    model = CASES[case].build().eval()
    data = Calibration.of([CASES[case].inputs() for _ in range(2)])
    return Source.of(model, calibrated_plan_for(model, data, *map(Format.parse, formats)), data)


def copies_of(case: str, *formats: str) -> Source:
    """A source of as many copies of a case as there are formats, each in one of them."""
    torch.manual_seed(0)
    model = Copies(*(CASES[case].build() for _ in formats)).eval()
    parsed = dict(zip((f"models.{i}." for i in range(len(formats))), formats, strict=True))
    units = [unit.name for unit in find_units(model)]
    of_units = [
        Format.parse(next(f for prefix, f in parsed.items() if name.startswith(prefix)))
        for name in units
    ]
    inputs = CASES[case].inputs()
    batch = tuple(inputs.values()) if isinstance(inputs, dict) else inputs
    data = Calibration.of([batch])
    return Source.of(model, calibrated_plan_for(model, data, *of_units), data)
