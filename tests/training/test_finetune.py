"""finetune: better, or the same; what was trained is what is applied, saved and loaded."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq import demo
from mixq.calibration import Calibration
from mixq.equalize.find import find_equalization
from mixq.errors import ModelError, OutputError, PlanError, UsageError
from mixq.plan import Plan
from mixq.plan_weights import PlanWeights
from mixq.sensitivity.compare import compare
from mixq.training.finetune import finetune

PlanFor = Callable[..., Plan]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

TWO_BITS = "w2g64-zp"


class Tied(nn.Module):
    """Token logits of an embedding whose table is the head's weight; a module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 20)
        self.first = self.second = nn.Linear(20, 20)
        self.shift = nn.Parameter(torch.randn(5, 20))
        self.head = nn.Linear(20, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.second(self.first(self.embedding(tokens) + self.shift).tanh())
        y: Tensor = self.head(hidden)
        return y


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.rnn = kind(20, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.rnn(x)[0])
        return y


class Convolutional(nn.Module):
    """Grouped, transposed and ordinary convolutions around a batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 2), nn.Flatten(), nn.Linear(150, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


class Attention(nn.Module):
    """The encoder layer has a fast path in eval mode that training must not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def tokens(generator: torch.Generator) -> Tensor:
    return torch.randint(0, 30, (16, 5), generator=generator)


def numbers(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(16, *shape, generator=generator)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], Tensor]]] = {
    "tied": (Tied, tokens),
    "lstm": (lambda: Recurrent(nn.LSTM), numbers(6, 20)),
    "gru": (lambda: Recurrent(nn.GRU), numbers(6, 20)),
    "convolutions": (Convolutional, numbers(3, 4, 4)),
    "attention": (Attention, numbers(4, 16)),
}


def net(name: str) -> tuple[nn.Module, Calibration]:
    """A net with random weights, left in training mode, and four batches."""
    make, inputs = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    generator = torch.Generator().manual_seed(1)
    return model, Calibration.of([inputs(generator) for _ in range(4)])


def outputs(model: nn.Module, calibration: Calibration) -> list[Tensor]:
    with torch.no_grad():
        return [model(batch) for batch in calibration.batches]


@pytest.mark.parametrize("train_weights", [False, True], ids=["steps", "weights"])
def test_demo_recovers_most_of_what_two_bits_lose(
    plan_for: PlanFor, train_weights: bool, tmp_path: Path
) -> None:
    model, calibration, evaluate = demo.load()
    plan = plan_for(model, TWO_BITS)
    before = evaluate(plan.apply(model))["accuracy"]
    tuned = finetune(model, plan, calibration, weights=train_weights, steps=100)
    applied = tuned.plan.apply(model)
    after, original = evaluate(applied)["accuracy"], evaluate(model)["accuracy"]
    assert before < 0.5
    # Half of the loss is the promise, nine tenths is what was measured.
    assert after > before + 0.9 * (original - before)
    assert tuned.best.loss < 0.2 * tuned.looks[0].loss
    # The plan says what a comparison of the applied model measures, and takes the same bytes.
    seen = compare(model, applied, calibration)
    assert tuned.plan.measured.output_mse == pytest.approx(seen.output_mse.error, rel=1e-9)
    assert seen.heldout_output_mse is not None
    assert tuned.plan.measured.heldout_output_mse == pytest.approx(
        seen.heldout_output_mse.error, rel=1e-9
    )
    assert tuned.plan.notes[-1] == tuned.note
    assert tuned.plan.layers == plan.layers
    written = [
        mixq.save(one.apply(model), tmp_path / f"{index}.safetensors")
        for index, one in enumerate((plan, tuned.plan))
    ]
    assert written[0] == written[1]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("formats", [(TWO_BITS,), ("w4g16-affine", "w2g16-signed", "w8-zp")])
def test_applied_model_is_the_trained_one(
    plan_for: PlanFor, name: str, formats: tuple[str, ...]
) -> None:
    model, calibration = net(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    said = outputs(copy.deepcopy(model).eval(), calibration)
    plan = plan_for(model, *formats)
    modes = [module.training for module in model.modules()]
    tuned = finetune(model, plan, calibration, weights=True, steps=30)
    assert tuned.best.loss < tuned.looks[0].loss
    _, heldout = calibration.split()
    assert heldout is not None
    applied, original = tuned.plan.apply(model).eval(), model.eval()
    after = outputs(original, calibration)
    assert all(torch.equal(a, b) for a, b in zip(said, after, strict=True))
    power = [y.square().mean() for y in outputs(original, calibration.split()[0])]
    errors = [
        (y - z).square().mean()
        for y, z in zip(outputs(applied, heldout), outputs(original, heldout), strict=True)
    ]
    loss = torch.stack(errors).mean() / torch.stack(power).mean()
    assert tuned.best.loss == pytest.approx(loss.item(), rel=1e-5)
    # The model is as it was, its mode included.
    model.train()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NETS)
def test_no_steps_give_the_plan_back(plan_for: PlanFor, name: str) -> None:
    model, calibration = net(name)
    plan = plan_for(model, TWO_BITS)
    tuned = finetune(model, plan, calibration, steps=0)
    assert tuned.plan == plan
    assert [look.step for look in tuned.looks] == [0]
    assert "did not lower" in tuned.note
    # Recurrent nets keep a second list of their weights, which must be their own again.
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            names = module._flat_weights_names
            assert all(
                one is module.get_parameter(name)
                for one, name in zip(module._flat_weights, names, strict=True)
            )


def test_start_is_what_the_plan_was_measured_at(plan_for: PlanFor) -> None:
    model, calibration, _ = demo.load()
    plan = plan_for(model, TWO_BITS)
    tuned = finetune(model, plan, calibration, steps=0)
    seen = compare(model, plan.apply(model), calibration).heldout_output_mse
    tuning = calibration.split()[0]
    with torch.no_grad():
        power = torch.cat([model(b).square().mean(1) for b in tuning.batches]).mean().item()
    assert seen is not None
    assert tuned.looks[0].loss == pytest.approx(seen.error / power, rel=1e-5)


def test_never_worse_than_the_start(plan_for: PlanFor) -> None:
    model, calibration, _ = demo.load()
    plan = plan_for(model, "w8")
    tuned = finetune(model, plan, calibration, steps=5, learning_rate=10.0)
    assert tuned.plan == plan
    assert tuned.best == tuned.looks[0]
    assert min(look.loss for look in tuned.looks[1:]) > tuned.best.loss
    assert "did not lower" in tuned.note


OTHER_PROCESS = """
import sys, torch, mixq
from mixq import demo
model, calibration, _ = demo.load()
applied = mixq.Plan.load(sys.argv[1]).apply(model)
with torch.no_grad():  # attention takes another path with gradients
    torch.save([applied(batch) for batch in calibration.batches], sys.argv[2])
"""


def test_saved_plan_gives_the_same_outputs_in_another_process(
    plan_for: PlanFor, tmp_path: Path
) -> None:
    model, calibration, _ = demo.load()
    tuned = finetune(model, plan_for(model, TWO_BITS), calibration, weights=True, steps=10)
    assert tuned.best.step > 0
    tuned.plan.save(tmp_path / "plan.json")
    command = [sys.executable, "-c", OTHER_PROCESS, "plan.json", "outputs.pt"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    loaded: list[Tensor] = torch.load(tmp_path / "outputs.pt", weights_only=True)
    here = outputs(tuned.plan.apply(model), calibration)
    assert all(torch.equal(a, b) for a, b in zip(here, loaded, strict=True))


def test_same_call_same_plan_other_seed_other_plan(plan_for: PlanFor) -> None:
    model, calibration, _ = demo.load()
    plan = plan_for(model, TWO_BITS)
    options: dict[str, Any] = {"weights": True, "steps": 10}
    state = torch.get_rng_state()
    first = finetune(model, plan, calibration, **options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    second = finetune(model, plan, calibration, **options)
    torch.set_rng_state(state)
    assert first == second
    assert finetune(model, plan, calibration, seed=1, **options).plan != first.plan


class StoppedError(Exception):
    """Stands for whatever ends a run."""


@pytest.mark.parametrize("stop", [1, 13, 40])
def test_interrupted_run_goes_on_to_the_same_result(
    plan_for: PlanFor, stop: int, tmp_path: Path
) -> None:
    model, calibration, _ = demo.load()
    plan = plan_for(model, TWO_BITS)
    # So fast that the best numbers are not always the latest.
    options: dict[str, Any] = {"weights": True, "steps": 40, "learning_rate": 0.1}
    whole = finetune(model, plan, calibration, **options)
    seen: list[int] = []

    def record(stage: str, done: int, total: int) -> None:
        seen.append(done)

    def watch(stage: str, done: int, total: int) -> None:
        seen.append(done)
        if done == stop:
            raise StoppedError

    with pytest.raises(StoppedError):
        finetune(model, plan, calibration, folder=tmp_path, progress=watch, **options)
    seen.clear()
    resumed = finetune(
        model, plan, calibration, folder=tmp_path,
        progress=record, **options,
    )  # fmt: skip
    assert resumed == whole
    assert seen[0] == stop - stop % 2  # a checkpoint every other step of 40
    assert seen[-1] == 40


@pytest.mark.parametrize(
    "other", [{"steps": 5}, {"seed": 1}, {"loss": "kl"}, {"weights": True}], ids=str
)
def test_checkpoint_of_another_run_is_refused(
    plan_for: PlanFor, other: dict[str, Any], tmp_path: Path
) -> None:
    model, calibration = net("tied")
    plan = plan_for(model, TWO_BITS)
    options: dict[str, Any] = {"steps": 2, "folder": tmp_path}
    finetune(model, plan, calibration, **options)
    with pytest.raises(OutputError, match="is of another run"):
        finetune(model, plan, calibration, **options | other)


def test_damaged_checkpoint_is_refused(plan_for: PlanFor, tmp_path: Path) -> None:
    model, calibration = net("tied")
    plan = plan_for(model, TWO_BITS)
    finetune(model, plan, calibration, folder=tmp_path, steps=2)
    file = tmp_path / "finetune.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(OutputError, match="damaged"):
        finetune(model, plan, calibration, folder=tmp_path, steps=2)


def test_units_of_16_and_32_bits_are_left_alone(plan_for: PlanFor) -> None:
    model, calibration = net("convolutions")
    plan = plan_for(model, "w2g16-zp", "w16", "w32", "w2g16-zp")
    tuned = finetune(model, plan, calibration, weights=True, steps=10)
    assert tuned.best.step > 0
    old, new = plan.apply(model).state_dict(), tuned.plan.apply(model).state_dict()
    for name, layer in plan.layers.items():
        keys = [key for key in old if key == name or key.startswith(f"{name}__")]
        assert keys
        if layer.bits >= 16:
            assert all(torch.equal(old[key], new[key]) for key in keys)


def test_others_move_only_if_asked(plan_for: PlanFor) -> None:
    model, calibration = net("convolutions")
    plan = plan_for(model, "w2g16-zp")
    for others in (False, True):
        tuned = finetune(model, plan, calibration, others=others, steps=10)
        applied = tuned.plan.apply(model).state_dict()
        moved = [
            name
            for name, parameter in model.named_parameters()
            if name in applied and not torch.equal(applied[name], parameter)
        ]
        assert bool(moved) == others


class Windows(nn.Module):
    """Two parameters that show the same storage in different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 20)
        self.whole = nn.Parameter(torch.ones(20))
        self.part = nn.Parameter(self.whole.data[:10])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) * self.whole + torch.cat([self.part, self.part])
        return y


def test_parameters_that_overlap_are_left_alone(plan_for: PlanFor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Windows()
    data = torch.randn(16, 20, generator=torch.Generator().manual_seed(0))
    tuned = finetune(model, plan_for(model, "w2"), data, steps=10)
    assert tuned.best.step > 0
    applied = tuned.plan.apply(model)
    assert torch.equal(applied.get_parameter("whole"), model.whole)
    assert torch.equal(applied.get_parameter("part"), model.part)


def test_dropout_is_off_and_statistics_stay(plan_for: PlanFor) -> None:
    model, calibration = net("convolutions")
    tuned = finetune(model, plan_for(model, "w2g16-zp"), calibration, steps=10)
    again = finetune(model.eval(), plan_for(model, "w2g16-zp"), calibration, steps=10)
    assert tuned == again
    applied = tuned.plan.apply(model).state_dict()
    for name, value in model.state_dict().items():
        if "running" in name:
            assert torch.equal(applied[name], value)


@pytest.mark.parametrize(("spread", "kept"), [(1.0, True), (0.05, False)], ids=["like", "unlike"])
def test_statistics_are_estimated_again_if_asked_and_better(
    plan_for: PlanFor, spread: float, kept: bool
) -> None:
    model, calibration = net("convolutions")
    norm = model.get_submodule("body.1")
    assert isinstance(norm, nn.BatchNorm2d)
    # Statistics that fit the data, as those of a trained net do.
    with torch.no_grad():
        inputs = torch.cat([batch for batch in calibration.batches if isinstance(batch, Tensor)])
        seen = model.get_submodule("body.0")(inputs)
    norm.running_mean, norm.running_var = seen.mean((0, 2, 3)), seen.var((0, 2, 3))
    # Two bits in the first layer change them; data of another spread give wrong ones.
    tuning, heldout = calibration.batches[:-1], calibration.batches[-1]
    data = [*(batch * spread for batch in tuning if isinstance(batch, Tensor)), heldout]
    plan = plan_for(model, "w2g16", "w32")
    options: dict[str, Any] = {"steps": 0, "others": False}
    without = finetune(model, plan, data, **options)
    tuned = finetune(model, plan, data, recalibrate_batch_norm=True, **options)
    assert (tuned.best.loss < without.best.loss) == kept
    mean = tuned.plan.apply(model).get_buffer("body.1.running_mean")
    assert torch.equal(mean, model.get_buffer("body.1.running_mean")) != kept
    assert (norm.momentum, int(model.get_buffer("body.1.num_batches_tracked"))) == (0.1, 0)


def test_activations_are_rounded_as_planned(plan_for: PlanFor) -> None:
    model, calibration = net("convolutions")
    plain = finetune(model, plan_for(model, "w4"), calibration, steps=0)
    plan = plan_for(model, "w4a8-dynamic")
    rounded = finetune(model, plan, calibration, others=False, steps=20)
    assert rounded.looks[0].loss != plain.looks[0].loss
    assert rounded.best.loss < rounded.looks[0].loss
    # Gradients pass the rounding of what enters the layers behind the first one.
    first = "body.0.weight__scales"
    old, new = (one.apply(model).state_dict()[first] for one in (plan, rounded.plan))
    assert not torch.equal(old, new)


def test_equalized_plan_stays_equalized(plan_for: PlanFor) -> None:
    model, calibration = net("convolutions")
    plan = plan_for(model, "w2g16-zp")
    equalization = find_equalization(model, calibration.batches[0])
    assert equalization.folds
    equalized = plan.with_weights(PlanWeights({}, equalization=equalization))
    tuned = finetune(model, equalized, calibration, weights=True, steps=20)
    assert 0 < tuned.best.loss < tuned.looks[0].loss
    assert tuned.looks[0].loss != finetune(model, plan, calibration, steps=0).looks[0].loss
    seen = compare(model, tuned.plan.apply(model), calibration).heldout_output_mse
    assert seen is not None
    power = torch.cat([y.flatten() for y in outputs(model.eval(), calibration.split()[0])])
    assert tuned.best.loss == pytest.approx(seen.error / power.square().mean().item(), rel=1e-5)


def test_teacher_is_somebody_else(plan_for: PlanFor) -> None:
    model, calibration = net("tied")
    teacher, _ = net("tied")
    with torch.no_grad():
        teacher.get_parameter("shift").add_(0.5)
    plan = plan_for(model, "w4")
    tuned = finetune(model, plan, calibration, teacher, weights=True, steps=40)
    wanted = outputs(teacher, calibration)

    def distance(one: nn.Module) -> Tensor:
        pairs = zip(outputs(one, calibration), wanted, strict=True)
        return torch.stack([(a - b).square().mean() for a, b in pairs]).mean()

    assert distance(tuned.plan.apply(model)) < 0.5 * distance(plan.apply(model))
    # What a plan says is measured against the original all the same.
    start = finetune(model, plan, calibration, steps=0).looks[0].loss
    assert tuned.plan.measured.relative_output_mse > start


class Brittle(nn.Module):
    """NaN as soon as its shift is far from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) + self.shift + 0 * torch.sqrt(0.25 - self.shift.square())
        return y


def test_nan_ends_the_run_with_the_best_so_far(plan_for: PlanFor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Brittle()
    data = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))

    def smallest(own: object, said: object) -> Tensor:
        assert isinstance(own, Tensor)
        return own.sum()  # has no least value, so the shift goes down for ever

    tuned = finetune(model, plan_for(model, "w2"), data, loss=smallest, learning_rate=0.02)
    assert 0 < tuned.best.step < 200
    assert "became NaN or infinite" in tuned.note
    assert bool(torch.isfinite(tuned.plan.apply(model)(data)).all())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_loss_that_is_not_finite_at_the_start_is_refused(plan_for: PlanFor, value: float) -> None:
    model, calibration = net("tied")

    def bad(own: object, said: object) -> Tensor:
        assert isinstance(own, Tensor)
        return own.sum() * value

    with pytest.raises(ModelError, match="before the first step"):
        finetune(model, plan_for(model, "w4"), calibration, loss=bad)


class NoGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x).detach()
        return y


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "steps": ({"steps": -1}, UsageError, "steps is -1"),
    "rate": ({"learning_rate": 0.0}, UsageError, "learning_rate is 0.0"),
    "nan-rate": ({"learning_rate": math.nan}, UsageError, "learning_rate is nan"),
    "batch": ({"batch_size": 0}, UsageError, "batch_size is 0"),
    "loss": ({"loss": "mae"}, UsageError, "loss is 'mae'"),
    "heat": ({"temperature": -1.0}, UsageError, "temperature is -1.0"),
    "seed": ({"seed": -1}, UsageError, "seed is -1"),
}


@pytest.mark.parametrize(("options", "kind", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_settings_are_refused_in_one_line(
    plan_for: PlanFor, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    model, calibration = net("tied")
    with pytest.raises(kind, match=words) as refused:
        finetune(model, plan_for(model, "w4"), calibration, **options)
    assert "\n" not in str(refused.value)


def test_model_without_gradients_is_refused(plan_for: PlanFor) -> None:
    model = NoGradients()
    with pytest.raises(ModelError, match="cannot be trained"):
        finetune(model, plan_for(model, "w2"), torch.randn(8, 16))


def test_plan_of_another_model_is_refused(plan_for: PlanFor) -> None:
    model, calibration = net("tied")
    plan = plan_for(model, "w4")
    with torch.no_grad():
        model.get_parameter("shift").add_(1)
    with pytest.raises(PlanError, match="the plan is for"):
        finetune(model, plan, calibration)


def test_plan_with_nothing_to_train_is_refused(plan_for: PlanFor) -> None:
    model, calibration = net("tied")
    with pytest.raises(UsageError, match="leaves nothing to train"):
        finetune(model, plan_for(model, "w16", "w32"), calibration, others=False)


def test_whole_batches_are_not_cut(plan_for: PlanFor) -> None:
    model, calibration = net("tied")
    fixed = Calibration(calibration.batches, whole=True)
    finetune(model, plan_for(model, "w4"), fixed, steps=1)
    with pytest.raises(UsageError, match="takes batches of 16 only"):
        finetune(model, plan_for(model, "w4"), fixed, steps=1, batch_size=4)


def test_single_sample_is_judged_on_itself(plan_for: PlanFor) -> None:
    model, calibration = net("tied")
    tuned = finetune(model, plan_for(model, "w2"), calibration.take(1), steps=5)
    assert "no sample was left to hold out" in tuned.note
    assert tuned.plan.measured.heldout_output_mse is None


def test_trained_plan_can_be_trained_on(plan_for: PlanFor) -> None:
    model, calibration, _ = demo.load()
    first = finetune(model, plan_for(model, TWO_BITS), calibration, weights=True, steps=20)
    second = finetune(model, first.plan, calibration, steps=20)
    assert second.looks[0].loss == pytest.approx(first.best.loss, rel=1e-6)
    assert second.best.loss <= first.best.loss
