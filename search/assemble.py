"""Assembles a Plan from what a search found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixq import __version__
from mixq.graph.units import WeightUnit
from mixq.plan import Plan
from mixq.plan_parts import (
    EVERYWHERE,
    CertificateInfo,
    HardwareInfo,
    Layer,
    Measurement,
    MetricInfo,
    ModelInfo,
    Prediction,
    StabilityInfo,
    UniformInfo,
    Workload,
)
from mixq.profiles import Profile
from mixq.search.analysis import Layout
from mixq.search.certificate import Certificate
from mixq.search.metric import PlanMetrics
from mixq.search.squares import Square, Squares
from mixq.search.stability import Stability
from mixq.search.trials import Trial
from mixq.sensitivity.table import SensitivityTable


def assemble(
    *,
    name: str,
    seed: int,
    layout: Layout,
    model_fingerprint: str,
    profile: Profile,
    batch_size: int,
    budget: Mapping[str, float],
    sensitivity: SensitivityTable,
    chosen: Trial,
    uniform: Sequence[Trial],
    single: Sequence[Trial] = (),
    certificate: Certificate,
    metrics: PlanMetrics,
    squares: Squares,
    notes: Sequence[str],
    stability: Stability | None = None,
) -> Plan:
    """The plan of a chosen trial."""
    totals, measured, heldout = chosen.totals, chosen.measured, chosen.heldout
    square = squares.chosen
    assignment = chosen.proposal.assignment
    costs = layout.costs
    latency, speedup = costs.latency_interval(assignment), costs.speedup_interval(assignment)
    power = sensitivity.output_power
    return Plan(
        mixq_version=__version__,
        seed=seed,
        model=ModelInfo(
            name=name,
            fingerprint=model_fingerprint,
            parameters=layout.graph.parameters,
            original_bytes=layout.graph.original_bytes,
        ),
        hardware=HardwareInfo(
            name=profile.name,
            fingerprint=profile.fingerprint,
            runtime=layout.costs.runtime,
            threads=layout.costs.threads,
        ),
        workload=Workload(batch_size=batch_size, shapes=dict(layout.shapes)),
        budget=dict(budget),
        error_metric=MetricInfo(name=sensitivity.metric, outputs=dict(sensitivity.outputs)),
        layers={
            unit: _layer(layout, sensitivity, layout.graph.units[unit], chosen, stability)
            for unit in assignment
        },
        predicted=Prediction(
            compression=totals.compression,
            weight_bytes=totals.weight_bytes,
            latency_s=totals.latency_s,
            latency_low_s=latency.low,
            latency_high_s=latency.high,
            speedup=costs.baseline_latency_s / totals.latency_s if totals.latency_s else None,
            speedup_low=None if speedup is None else speedup.low,
            speedup_high=None if speedup is None else speedup.high,
            baseline_latency_s=costs.baseline_latency_s,
            peak_memory_bytes=costs.peak_memory_bytes(assignment),
            file_bytes=costs.file_bytes(assignment),
            error=totals.error,
            output_mse=totals.error if sensitivity.metric == "mse" else None,
        ),
        measured=Measurement(
            error=measured.error,
            error_se=measured.error_se,
            heldout_error=None if heldout is None else heldout.error,
            output_mse=square.measured.error,
            output_mse_se=square.measured.error_se,
            relative_output_mse=square.measured.error / power if power > 0 else 0.0,
            heldout_output_mse=None if square.heldout is None else square.heldout.error,
            metric=dict(metrics.plan),
            original_metric=dict(metrics.original),
        ),
        certificate=CertificateInfo(
            objective=certificate.objective,
            lower_bound=certificate.lower_bound,
            gap=certificate.gap,
            solver=certificate.solver,
            states=certificate.states,
        ),
        uniform=_plain(uniform, squares, metrics),
        single=_plain(single, squares, metrics),
        notes=list(notes),
        stability=None if stability is None else _stability(stability),
    )


def _stability(found: Stability) -> StabilityInfo:
    return StabilityInfo(
        samples=found.samples, resamplings=found.resamplings, kept=found.kept, regret=found.regret
    )


def _layer(
    layout: Layout,
    sensitivity: SensitivityTable,
    unit: WeightUnit,
    chosen: Trial,
    stability: Stability | None,
) -> Layer:
    fmt = chosen.proposal.assignment[unit.name]
    cost = layout.costs.cost(unit.name, fmt)
    entry = sensitivity.entries[unit.name][fmt]
    return Layer(
        bits=fmt.bits,
        group_size=fmt.group_size,
        grid=fmt.grid,
        activation=fmt.activation,
        method=fmt.method,
        bias_corrected=fmt.bias_corrected,
        kernel=cost.kernel,
        weight_bytes=cost.weight_bytes,
        latency_s=cost.latency_s,
        error=entry.error,
        error_se=entry.error_se,
        shape=list(unit.shape),
        matrix=(unit.rows, unit.columns),
        aliases=list(unit.aliases),
        stability=None if stability is None else stability.widths.get(unit.name),
        format_stability=None if stability is None else stability.formats.get(unit.name),
    )


def _plain(
    trials: Sequence[Trial], squares: Squares, metrics: PlanMetrics
) -> dict[str, UniformInfo]:
    """Plain plans by their width or format."""
    known = ((trial.proposal.name, trial) for trial in trials)
    return {
        name.removeprefix("uniform ").removesuffix(EVERYWHERE): _uniform(
            trial, squares.uniform[name], metrics.uniform.get(name, {})
        )
        for name, trial in known
    }


def _uniform(trial: Trial, square: Square, metric: Mapping[str, float]) -> UniformInfo:
    heldout = trial.heldout
    return UniformInfo(
        weight_bytes=trial.totals.weight_bytes,
        compression=trial.totals.compression,
        latency_s=trial.totals.latency_s,
        error=trial.measured.error,
        heldout_error=None if heldout is None else heldout.error,
        output_mse=square.measured.error,
        heldout_output_mse=None if square.heldout is None else square.heldout.error,
        metric=dict(metric),
    )
