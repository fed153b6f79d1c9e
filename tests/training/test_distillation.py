"""Distillation: the plan's own measure, divergence, masks, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mixq.batch import Batch
from mixq.errors import ModelError
from mixq.sensitivity.outputs import squared_error
from mixq.training.distillation import Distillation, Lesson


class Fixed(nn.Module):
    """Says the same whatever it is asked."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output
        self.calls = 0

    def forward(self, *args: Tensor, **kwargs: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"logits": self.output, "other": self.output[:1]}


def loss_of(distillation: Distillation, own: Tensor, said: Tensor, batch: Batch) -> Tensor:
    lesson = Lesson(Fixed(said), [batch])
    return distillation({"logits": own}, distillation.target(lesson, 0), batch)


MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])
BATCHES: dict[str, tuple[Batch, tuple[int, ...]]] = {
    "rows": (torch.zeros(2, 5), (2, 4)),
    "images": (torch.zeros(2, 3, 8, 8), (2, 4, 3, 3)),
    "masked": ({"x": torch.zeros(2, 3), "attention_mask": MASK}, (2, 3, 4)),
    "pooled": ({"x": torch.zeros(2, 3), "attention_mask": MASK}, (2, 4)),
    "no-samples": (torch.zeros(2, 5), (7,)),
}


@pytest.mark.parametrize(("batch", "shape"), BATCHES.values(), ids=BATCHES)
def test_mse_is_what_plans_are_measured_by(batch: Batch, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    own, said = torch.randn(2, *shape, generator=generator)
    lesson = Lesson(Fixed(said), [batch])
    power = squared_error(said, torch.zeros_like(said), batch).mean().item()
    assert lesson.power() == pytest.approx(power, rel=1e-6)
    loss = loss_of(Distillation("mse", 1.0, lesson.power()), own, said, batch)
    expected = squared_error(own, said, batch).mean().item() / power
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_the_divergence_of_what_is_shown(temperature: float) -> None:
    batch, shape = BATCHES["masked"]
    generator = torch.Generator().manual_seed(0)
    own, said = torch.randn(2, *shape, generator=generator).double()
    per_token = [
        [
            sum(
                p * (math.log(p) - math.log(q))
                for p, q in zip(
                    (said[sample, token] / temperature).softmax(0).tolist(),
                    (own[sample, token] / temperature).softmax(0).tolist(),
                    strict=True,
                )
            )
            for token in tokens
        ]
        for sample, tokens in ((0, (0, 1)), (1, (0,)))
    ]
    expected = temperature**2 * sum(sum(row) / len(row) for row in per_token) / 2
    loss = loss_of(Distillation("kl", temperature, 1.0), own, said, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_kl_at_a_high_temperature_is_half_the_squared_difference_of_centred_logits() -> None:
    # Hinton et al. (2015), section 2.1.
    generator = torch.Generator().manual_seed(0)
    own, said = torch.randn(2, 2, 4, generator=generator).double()
    loss = loss_of(Distillation("kl", 1e4, 1.0), own, said, torch.zeros(2, 1))
    difference = (own - own.mean(1, keepdim=True)) - (said - said.mean(1, keepdim=True))
    assert loss.item() == pytest.approx(difference.square().mean(1).mean().item() / 2, rel=1e-3)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_hidden_positions_give_neither_loss_nor_gradient(kind: str) -> None:
    batch, shape = BATCHES["masked"]
    said = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    own = said.clone()
    own[0, 2] = torch.nan
    own.requires_grad_()
    loss = loss_of(Distillation(kind, 1.0, 1.0), own, said, batch)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert own.grad is not None
    assert bool((own.grad[0, 2] == 0).all())


def test_function_gets_whole_outputs() -> None:
    def loss(own: object, said: object) -> Tensor:
        assert isinstance(own, dict)
        assert isinstance(said, dict)
        assert said.keys() == {"logits", "other"}
        difference: Tensor = (own["logits"] - said["logits"]).abs().sum()
        return difference

    assert (
        loss_of(Distillation(loss, 1.0, 1.0), torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2))
        == 6
    )


@pytest.mark.parametrize("value", [3.0, torch.ones(2), None], ids=["float", "two", "none"])
def test_function_must_return_one_number(value: object) -> None:
    with pytest.raises(ModelError, match="must return a tensor with one number"):
        loss_of(
            Distillation(lambda *_: value, 1.0, 1.0),  # type: ignore[arg-type]
            torch.ones(2, 3), torch.ones(2, 3), torch.zeros(2),
        )  # fmt: skip


def test_outputs_of_other_shapes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 3\), but the model's has \(2, 4\)"):
        loss_of(Distillation("mse", 1.0, 1.0), torch.ones(2, 4), torch.ones(2, 3), torch.zeros(2))


def test_silent_teacher_has_power_one() -> None:
    assert Lesson(Fixed(torch.zeros(2, 3)), [torch.zeros(2)]).power() == 1.0


def test_teacher_with_nan_is_refused() -> None:
    with pytest.raises(ModelError, match="teacher's output is NaN or infinite"):
        Lesson(Fixed(torch.full((2, 3), torch.inf)), [torch.zeros(2)]).power()


@pytest.mark.parametrize(("room", "calls"), [(1 << 20, 1), (10, 3)], ids=["kept", "too-large"])
def test_teacher_is_asked_once_where_its_output_fits(
    room: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixq.training.distillation.CACHE_BYTES", room)
    teacher = Fixed(torch.ones(2, 3))
    lesson = Lesson(teacher, [torch.zeros(2)])
    for _ in range(3):
        assert torch.equal(lesson.main(0), teacher.output)
    assert teacher.calls == calls
