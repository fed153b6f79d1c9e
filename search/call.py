"""The call of the library, `mixq.search(...)`: from arguments to a request and a subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mixq.calibration import Calibration
from mixq.profiles import Profile
from mixq.progress import Progress, watched
from mixq.search.folder import run_folder
from mixq.search.palette import Palette
from mixq.search.recipe import Recipe
from mixq.search.recipe import load as load_recipe
from mixq.search.request import (
    DEFAULT_ROUNDS,
    DEFAULT_TRIALS,
    Equalize,
    Request,
    Sampler,
    Sensitivity,
)
from mixq.search.result import SearchResult
from mixq.search.run import checked, run
from mixq.search.subject import Subject
from mixq.sensitivity.compare import Evaluate
from mixq.sensitivity.metrics.choice import AUTO, Loss, MetricChoice, Outputs

if TYPE_CHECKING:
    from torch import nn


def search(
    model: nn.Module,
    calibration: object,
    *,
    hardware: str | Profile | None = None,
    recipe: str | Path | None = None,
    target_compression: float | None = None,
    max_size_mb: float | None = None,
    max_latency_ms: float | None = None,
    min_speedup: float | None = None,
    max_memory_mb: float | None = None,
    max_error: float | None = None,
    max_metric_drop: float | None = None,
    bits: Sequence[int] | None = None,
    palette: Palette | None = None,
    pin: Mapping[str, int] | None = None,
    tie: Sequence[str] = (),
    evaluate: Evaluate | None = None,
    trials: int = DEFAULT_TRIALS,
    rounds: int = DEFAULT_ROUNDS,
    seed: int = 0,
    batch_size: int | None = None,
    threads: int | None = None,
    samples: int | None = None,
    sequential: bool | None = None,
    equalize: Equalize = "none",
    sensitivity: Sensitivity = "auto",
    workers: int = 1,
    device: str = "cpu",
    metric: str | Loss = AUTO,
    outputs: Outputs = None,
    check: bool | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    storage: str | None = None,
    sampler: Sampler = "mixq",
    progress: Progress | bool = False,
) -> SearchResult:
    """Find the plan of least output error that meets every demand.

    If only an error or a metric drop is demanded, find the smallest plan instead. The model is
    not changed. The last quarter of the calibration samples is held out: it judges plans and is
    never searched on. A plan that comes back is never worse, on held-out data, than a plan of one
    width or one format of no more bytes that was measured beside it: 8, 4 and 2 bits, and the best
    formats. Where bytes or time are limited, demands on error and metric are kept beside that, and
    the rest of the bytes is used.

    Args:
        model: any module with parameters; measured in eval mode.
        calibration: a tensor, or a list of batches (tensors, tuples or dicts of tensors).
        hardware: name of a shipped profile, a TOML file, or a profile; may be left out if the
            recipe names one.
        recipe: name of a shipped recipe, or a TOML file; what is given beside it goes before it.
        target_compression: bytes of the 32-bit model over bytes of everything stored.
        max_size_mb: of everything stored, in megabytes of 10^6 bytes.
        max_latency_ms: predicted, of one forward pass.
        min_speedup: predicted, over the 32-bit model on the same chip.
        max_memory_mb: predicted: weights, live activations and runtime.
        max_error: measured output error, in the metric.
        max_metric_drop: how much worse `evaluate`'s headline metric may get.
        bits: widths to choose from, by default 32, 8, 4 and 2.
        palette: group sizes, grids, rounding and activations to choose from, with widths of its
            own that go before `bits`.
        pin: unit name pattern to width.
        tie: patterns; the units that match one take one format together.
        evaluate: metrics of a model on labelled data; its attribute `primary` names the headline
            metric, `higher_is_better` (default True) says which way is better; with
            `max_metric_drop` it has to be there if the metric's name has a word like `loss`.
        trials: plans of least added error to measure beside the uniform ones.
        rounds: how often at most the best of them is refined: single changes are measured with
            the rest of the plan in place, and the problem is solved again with what they do there.
        seed: the same seed gives the same plan.
        batch_size: samples per forward pass of the predicted workload, by default 1.
        threads: of the predicted workload; by default the profile's.
        equalize: how the model is rewritten first, without a change of what it computes: `none`,
            `fold` (batch norms), `cross-layer` (and ranges balanced), `input` (and inputs
            scaled), `all`.
        sequential: whether the chosen plan is rounded once more in the order in which units run,
            and kept so if that errs less; by default where it takes no longer than the rest.
        samples: calibration samples that sensitivities and plans are measured on, by default
            the quarter that rounding does not learn from while it is compared, or all if no
            method learns.
        sensitivity: `measured` on all of these samples; `auto` on as many as the plan needs, or
            on `samples` if that is given; `sketch`, estimated from gradients, for models that
            are too large to measure.
        workers: processes that measure sensitivities and plans; the plan is the same for any
            number.
        device: where the model is run while it is measured, `cpu` or `cuda`; rounding and
            `evaluate` stay on the processor, and so does the model.
        metric: of output error: `mse`, `relative` (squared error over each sample's own power),
            `kl` (divergence of softmax distributions, the mean over positions), `cosine` (one
            minus it), or a function loss(outputs, batch) of yours whose increase is the error;
            `auto` is `kl` for causal language models and `mse` for others.
        outputs: which outputs are compared, by name: `logits`, `0`, `hidden_states.1`; one, a
            list, or weights by name; `all` for every floating-point one with equal weights. By
            default `logits`, else `last_hidden_state`, else the first floating-point one.
        check: whether the packed model is run at the end and compared with what was measured and
            predicted; by default with a recipe only.
        name: of the model, for the plan; by default its class.
        folder: where measurements and the study are kept, so that a run can go on; it is locked
            meanwhile, and refused if it holds another model's or chip's run.
        storage: database URL for the study instead of the folder's journal. Searches on many
            machines that share one measure each plan once, and find the same plan.
        sampler: who proposes plans: `mixq`, exact optima; for comparison Optuna's own samplers
            `tpe`, `nsga2` and `random`, which start from the optimum.
        progress: True shows bars, on a terminal and in a notebook (`mixq.progress_bar`); or a
            function of yours, which is told how far it is.

    Raises:
        InfeasibleError: if no plan meets all demands, with what is feasible.
        PlanError: if the packed model is not what was measured.
        MixqError: for anything else that is refused; nothing measured is lost.
        KeyboardInterrupt: by Ctrl-C, as ever; with a `folder`, the same call goes on from there.
    """
    base = Recipe() if recipe is None else load_recipe(recipe)
    budget = base.demands(
        target_compression=target_compression, max_size_mb=max_size_mb,
        max_latency_ms=max_latency_ms, min_speedup=min_speedup, max_memory_mb=max_memory_mb,
        max_error=max_error, max_metric_drop=max_metric_drop,
    )  # fmt: skip
    workload = base.batch_size if batch_size is None else batch_size
    request = Request(
        budget, palette or base.palette(bits=bits), pin or {}, tie, trials, seed,
        1 if workload is None else workload,
        base.threads if threads is None else threads,
        base.samples if samples is None else samples,
        sequential, equalize, sensitivity, workers, device, MetricChoice(metric, outputs),
        rounds, sampler,
    )  # fmt: skip
    profile = base.profile(hardware)
    subject = Subject(
        model, Calibration.of(calibration), profile, evaluate, name or type(model).__name__
    )
    with watched(progress) as report:
        if folder is None:
            result = run(request, subject, storage=storage, progress=report)
        else:
            with run_folder(folder, subject.identity) as held:
                result = run(request, subject, folder=held.path, storage=storage, progress=report)
    wanted = recipe is not None if check is None else check
    return checked(result, subject) if wanted else result
