"""finetune: a plan's scales, offsets and weights, trained until its outputs are the teacher's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import torch
from torch import nn

from mixq.apply import check_fits
from mixq.batch import Batch, part_of, sample_count
from mixq.calibration import Calibration
from mixq.errors import UsageError
from mixq.graph.state import fingerprint, stored_tensors
from mixq.plan import Plan
from mixq.plan_parts import Measurement, MetricInfo
from mixq.plan_weights import weights_of
from mixq.progress import Progress, silent
from mixq.sensitivity.compare import Evaluate, compare
from mixq.sensitivity.metrics.resolve import of_plan
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.training.batch_norm import estimated_statistics
from mixq.training.build import build_student
from mixq.training.checkpoint import Checkpoint
from mixq.training.distillation import Distillation, Lesson, Loss
from mixq.training.result import Finetuned, note_of
from mixq.training.settings import Settings
from mixq.training.trainer import Look, Schedule, look, train

CODE_VERSION: Final = "finetune-1"
"""Part of a checkpoint's identity: changed whenever the same inputs would train otherwise."""


def finetune(
    model: nn.Module,
    plan: Plan,
    data: object,
    teacher: nn.Module | None = None,
    *,
    weights: bool = False,
    others: bool = True,
    steps: int = 200,
    learning_rate: float = 0.01,
    batch_size: int | None = None,
    loss: Loss = "mse",
    temperature: float = 2.0,
    recalibrate_batch_norm: bool = False,
    evaluate: Evaluate | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> Finetuned:
    """Train what a plan stores until the quantized model says what the teacher says.

    No labels are used. Training starts from the plan's own codes and changes neither formats nor
    bytes. The last quarter of the samples is held out and chooses the best step, so that the
    result is never worse on it than the plan was. The same call gives the same result; models
    run in eval mode, batch norms with the statistics that they have.

    Args:
        model: the original that the plan is for; never changed.
        plan: where to start; its 32- and 16-bit units are left as they are.
        data: a calibration, or what `Calibration.of` takes; a few hundred samples are better than
            a few dozen.
        teacher: any module that takes the same inputs; by default `model`.
        weights: train the weights under the codes as well, and not their scales and offsets alone.
        others: train also parameters that are no weight unit, such as biases and norms, which are
            stored in full anyway.
        steps: batches learned from.
        learning_rate: largest step of a number, relative to its size.
        batch_size: batches are cut to at most so many samples; by default they stay as they are.
        loss: `mse` of the main outputs, which is what plans are measured by whatever a model's
            outputs mean; `kl`, for logits of classifiers and language models; or a function of
            the whole outputs of student and teacher that returns a tensor with one number.
        temperature: of `kl`.
        recalibrate_batch_norm: estimate running statistics again at the end, and keep them if the
            held-out loss is lower with them: after training on the demo it never was, with no
            steps it halved the loss of 2 bits rounded to nearest.
        evaluate: metrics on labelled data, which are noted in the plan and not learned from.
        seed: of the order of batches.
        folder: where a checkpoint is kept, from which the same call goes on.
        progress: is told how far it is.

    Raises:
        UsageError: for a setting out of its range, or a plan that leaves nothing to train.
        PlanError: if the plan is for another model.
        CalibrationError: if data are empty or the model does not take them.
        ModelError: if the loss is not finite at the start, or has no gradient.
        OutputError: if `folder` cannot be written or holds another run's checkpoint.
    """
    settings = Settings(weights, others, steps, learning_rate, batch_size, loss, temperature, seed)
    calibration = Calibration.of(data)
    check_fits(plan, model)
    kept, rewritten = weights_of(plan, model)
    stored = {item.names[0]: item for item in stored_tensors(rewritten)}
    student = build_student(
        rewritten, plan, stored, kept, train_weights=weights, train_others=others
    )
    numbers = {name: rate.tensor for name, rate in student.trained().items()}
    tuning, heldout = calibration.split()
    said_by = model if teacher is None else teacher
    lesson = Lesson(said_by, _cut(tuning, batch_size))
    judge = lesson if heldout is None else Lesson(said_by, _cut(heldout, batch_size))
    distillation = Distillation(loss, temperature, lesson.power() if loss == "mse" else 1.0)
    checkpoint = Checkpoint(folder, _identity(plan, calibration, said_by, settings))
    state = checkpoint.resume(numbers)
    schedule = Schedule(steps, learning_rate, seed)
    train(student, lesson, judge, distillation, schedule, state, checkpoint.keep, progress)
    with torch.no_grad():
        for name, number in numbers.items():
            number.copy_(state.best[name])
    best = state.best_look
    if recalibrate_batch_norm:
        student.buffers = estimated_statistics(student, stored, lesson.batches)
        renewed = Look(best.step, look(student, judge, distillation))
        if renewed.loss < best.loss:
            best = renewed
        else:
            student.buffers = {}
    note = note_of(state, best, steps, tuning.samples, held_out=heldout is not None)
    if best != state.looks[0]:
        plan = plan.with_weights(student.plan_weights(kept))
        measured, metric = _measured(model, plan, calibration, evaluate)
        plan = plan.model_copy(
            update={"measured": measured, "error_metric": metric, "notes": [*plan.notes, note]}
        )
    return Finetuned(plan, tuple(state.looks), best, note)


def _cut(calibration: Calibration, size: int | None) -> list[Batch]:
    """Batches of at most `size` samples."""
    if size is None:
        return list(calibration.batches)
    if calibration.whole and size < sample_count(calibration.batches[0]):
        raise UsageError(
            f"batch_size is {size}, but the model takes batches of "
            f"{sample_count(calibration.batches[0])} only; leave it out"
        )
    return [
        part_of(batch, low, min(low + size, sample_count(batch)))
        for batch in calibration.batches
        for low in range(0, sample_count(batch), size)
    ]


def _identity(plan: Plan, calibration: Calibration, teacher: nn.Module, settings: Settings) -> str:
    """The same for calls that train in the same way."""
    weights = plan.weights and plan.weights.sha256
    formats = [(name, fmt.name) for name, fmt in plan.assignment.items()]
    parts = (
        CODE_VERSION, plan.model.fingerprint, formats, weights, calibration.fingerprint,
        fingerprint(teacher), settings.words,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _measured(
    model: nn.Module, plan: Plan, calibration: Calibration, evaluate: Evaluate | None
) -> tuple[Measurement, MetricInfo]:
    """How far the plan's model is from the original; metrics as they were would be wrong.

    In the plan's metric; in squared errors where that is a loss, which a plan has the name of.
    """
    info = plan.error_metric
    metric = of_plan(plan)
    if metric is None:
        metric = Weighted(weights=info.outputs or None)
        info = info.model_copy(update={"name": metric.name})
    seen = compare(model, plan.apply(model), calibration, evaluate, metric)
    error = seen.error or seen.output_mse
    heldout = seen.heldout_output_mse
    heldout_error = seen.heldout_error or heldout
    measured = Measurement(
        error=error.error,
        error_se=error.error_se,
        heldout_error=None if heldout_error is None else heldout_error.error,
        output_mse=seen.output_mse.error,
        output_mse_se=seen.output_mse.error_se,
        relative_output_mse=seen.output_mse.error / (seen.output_power or 1.0),
        heldout_output_mse=None if heldout is None else heldout.error,
        metric=dict(seen.metric),
        original_metric=dict(seen.original_metric) or plan.measured.original_metric,
    )
    return measured, info
