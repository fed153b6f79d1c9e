"""Interactions: what two layers err together beside what each errs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Final

from mixq.calibration import Calibration
from mixq.errors import NonFiniteError
from mixq.formats import Format
from mixq.progress import track
from mixq.rounding.rounder import Rounder
from mixq.search.audit import Audit, AuditedPlan, Interaction
from mixq.search.problem import Problem
from mixq.search.trials import Trial
from mixq.sensitivity.device import moved
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.joint import joint_errors
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.setting import Setting
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable

STAGE: Final = "auditing errors that add"
MOST_LAYERS: Final = 6
"""The heaviest layers, whose 15 pairs are measured."""
FEW_SAMPLES: Final = 4
"""Samples below which a standard error says too little."""
SHARE: Final = 0.1
"""Of the samples that sensitivities sent through the model, the audit sends no more than so many,
or else `FEW_SAMPLES` for each of three measurements."""


@dataclass(frozen=True)
class Auditor:
    """Measures the interactions of a plan.

    Attributes:
        rounder: knows the codes.
        calibration: samples that plans are measured on.
        setting: how the model is measured.
        model_fingerprint: of the model.
    """

    rounder: Rounder
    calibration: Calibration
    setting: Setting
    model_fingerprint: str

    def audit(
        self, problem: Problem, table: SensitivityTable, chosen: Trial, trials: Sequence[Trial]
    ) -> Audit:
        """The audit of a search.

        Args:
            problem: with the errors of single layers.
            table: that they are from; it says how much work may be done.
            chosen: the plan whose layers are looked at.
            trials: all plans that were measured.
        """
        assignment = chosen.proposal.assignment
        errors = {unit: problem.choice(unit, fmt).error for unit, fmt in assignment.items()}
        order = {unit: index for index, unit in enumerate(assignment)}
        heavy = sorted((u for u in errors if errors[u] > 0), key=lambda u: (-errors[u], order[u]))
        passed = sum(entry.samples for row in table.entries.values() for entry in row.values())
        count, samples = affordable(len(heavy), self.calibration.samples, passed)
        layers = heavy[:count]
        found: list[Interaction] = []
        if layers:
            part = self.calibration.take(samples)
            samples = part.samples
            found = self._interactions(part, {u: assignment[u] for u in layers}, order)
        return Audit(
            metric=table.metric,
            chosen=chosen.proposal.name,
            plans=tuple(map(_audited, trials)),
            samples=samples if found else 0,
            layers=tuple(layers),
            interactions=tuple(found),
        )

    def _interactions(
        self, part: Calibration, formats: Mapping[str, Format], order: Mapping[str, int]
    ) -> list[Interaction]:
        units = sorted(formats, key=order.__getitem__)
        pairs = list(combinations(units, 2))
        wanted = [*((unit,) for unit in units), *pairs]
        kept = self._kept(part)
        known = partial(
            _known, kept, self.setting.store(self.model_fingerprint, part, self.rounder)
        )
        missing = [names for names in wanted if known(names, formats) is None]
        reference: Reference | None = None
        done = len(wanted) - len(missing)
        for names in track(missing, STAGE, len(wanted), self.setting.progress, done=done):
            if reference is None:
                there = moved(self.rounder.model, self.setting.device)
                reference = Reference(there, part, self.setting.metric)
            chosen = {unit: formats[unit] for unit in names}
            try:
                what = f"{' and '.join(names)} alone"
                errors = joint_errors(self.rounder, chosen, {"": reference}, what)
            except NonFiniteError:  # two layers may break what neither does alone
                continue
            kept.put(*_key(names, formats), errors[""])
        found = []
        for one, other in pairs:
            apart = [known((unit,), formats) for unit in (one, other)]
            both = known((one, other), formats)
            if both is not None and apart[0] is not None and apart[1] is not None:
                found.append(interaction(one, other, apart[0], apart[1], both))
        return sorted(found, key=lambda pair: -abs(pair.excess))

    def _kept(self, part: Calibration) -> Store:
        """What the audit has measured; sensitivities are in a store of their own."""
        setting, metric = self.setting, self.setting.metric
        return Store(
            setting.folder, self.model_fingerprint, part.fingerprint, self.rounder.fingerprint,
            metric.fingerprint, setting.device.partition(":")[0], signed=metric.is_signed,
            kind="audit",
        )  # fmt: skip


def interaction(
    first: str, second: str, one: Sequence[float], other: Sequence[float], both: Sequence[float]
) -> Interaction:
    """The interaction of two units from their errors by sample: alone, alone and together."""
    excess = Estimate.of([b - u - v for b, u, v in zip(both, one, other, strict=True)])
    together = Estimate.of(both).error
    return Interaction(
        first, second, together - excess.error, together, excess.error, excess.error_se
    )


def affordable(layers: int, samples: int, passed: int) -> tuple[int, int]:
    """How many layers and samples may be measured, by a rule that knows no clock.

    So many layers are as many measurements alone and a measurement of each pair. First there are
    fewer samples, down to `FEW_SAMPLES`, then fewer layers; two where not even they are paid for.

    Args:
        layers: that err.
        samples: there are.
        passed: samples that sensitivities sent through the model.
    """
    count = min(layers, MOST_LAYERS)
    if count < 2:
        return 0, 0
    budget = int(SHARE * passed)
    few = min(samples, FEW_SAMPLES)
    while count > 2 and _measurements(count) * few > budget:
        count -= 1
    return count, max(few, min(samples, budget // _measurements(count)))


def _measurements(layers: int) -> int:
    return layers * (layers + 1) // 2


def _audited(trial: Trial) -> AuditedPlan:
    measured = trial.measured
    return AuditedPlan(
        trial.proposal.name, trial.proposal.kind, trial.totals.weight_bytes, trial.totals.error,
        measured.error, measured.error_se,
    )  # fmt: skip


def _key(names: Sequence[str], formats: Mapping[str, Format]) -> tuple[str, str]:
    """Where a store keeps the units' error."""
    return "\n".join(names), "\n".join(formats[unit].name for unit in names)


def _known(
    kept: Store, sensitivities: Store, names: Sequence[str], formats: Mapping[str, Format]
) -> list[float] | None:
    """What is known of units; that of one alone is a sensitivity."""
    key = _key(names, formats)
    return kept.get(*key) or sensitivities.get(*key)
