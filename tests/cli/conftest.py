"""The command line run in process, a tiny model of a user's own, and a finished demo run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

from mixq.cli.main import run

TINY = """
import torch
from torch import nn


def net(sizes=(32, 48, 32, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) / inputs**0.5)
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def inputs(samples=12):
    return torch.randn(samples, 32, generator=torch.Generator().manual_seed(1))


def load():
    return net(), list(torch.split(inputs(), 3))


def other():
    return net(seed=1), load()[1]


def one_sample():
    return net(), inputs(1)


def judged():
    model, batches = load()
    expected = [model(batch).detach() for batch in batches]

    def evaluate(candidate):
        close = [(candidate(b) - e).square().mean() for b, e in zip(batches, expected)]
        return {"closeness": -float(sum(close))}

    return model, batches, evaluate


def bare():
    return net()


def nan():
    model, batches = load()
    with torch.no_grad():
        model[2].weight[3, 4] = float("nan")
    return model, batches


def no_units():
    return nn.Sequential(nn.BatchNorm1d(32)).eval(), inputs()


def wrong_shape():
    return net(), torch.zeros(4, 31)


def empty():
    return net(), []


def nothing():
    return []


def failing():
    model, batches = load()

    def evaluate(candidate):
        raise KeyError("labels are gone")

    return model, batches, evaluate


def loss(outputs, batch):
    return outputs.logsumexp(1) - outputs[:, 0]


def failing_loss(outputs, batch):
    raise KeyError("labels are gone")


class Asserting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        assert x.shape[1] == 3, "three columns"
        return self.net(x)


def asserting():
    return Asserting(), inputs()
"""


@dataclass(frozen=True)
class Answer:
    """What a command said: exit status, stdout, stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one `error:` line; anything else on stderr but what --verbose says is a fault."""
        lines = [line for line in self.err.splitlines() if not line.startswith("[")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        assert "Traceback" not in self.err
        return lines[0]


Cli: TypeAlias = Callable[..., Answer]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # small tensors gain nothing, and processors are shared


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Cli:
    """`cli("plan", "show", path)` in an empty folder that holds nothing but tiny.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXQ_TRACEBACK", "1")  # a bug is to fail the test, not to look refused
    Path("tiny.py").write_text(TINY, encoding="utf-8")

    def invoke(*arguments: object) -> Answer:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Answer(status, printed.out, printed.err)

    return invoke


@pytest.fixture
def search(cli: Cli) -> Cli:
    """A quick search of the tiny model, into the folder `run`; options may override."""

    def invoke(*arguments: object, model: str = "load", output: object = "run") -> Answer:
        given = ["--model", f"tiny.py:{model}", "--output", output, "--trials", "2", *arguments]
        chip = [] if "--hardware" in arguments else ["--hardware", "intel_cpu"]
        return cli("search", *chip, *given)

    return invoke


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo search at 6x; copied by `demo_run`, read-only otherwise."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    arguments = ["search", "--hardware", "intel_cpu", "--target-compression", "6"]
    assert run([*arguments, "--trials", "2", "--output", str(folder), "--format", "json"]) == 0
    return folder


@pytest.fixture
def demo_run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished demo run."""
    return Path(shutil.copytree(finished, tmp_path / "demo-run"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes, to compare before and after."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture(name="contents")
def contents_fixture() -> Callable[[Path], dict[str, bytes]]:
    return contents
