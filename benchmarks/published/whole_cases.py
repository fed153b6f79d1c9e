"""Published rows about whole models, ready to be predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mixq.errors import MixqError
from mixq.predict.chips import chip_of
from mixq.predict.efficiency import Group, expected_efficiency, group_of
from mixq.predict.row import RATIO, Row
from mixq.predict.rows import read_rows
from mixq.predict.terms import Efficiency, Terms, terms_of
from mixq.profiles import load

ROWS = Path(__file__).parent.parent / "data" / "published.csv"


@dataclass(frozen=True)
class Case:
    """A row that was measured."""

    row: Row
    terms: Terms
    group: Group
    measured_s: float

    @property
    def model(self) -> str:
        return self.terms.job.network

    @property
    def expected(self) -> Efficiency:
        return expected_efficiency(self.row, gpu=self.terms.gpu)

    @property
    def device(self) -> str:
        if self.terms.gpu:
            return "GPU"
        chip = self.row.chip.lower()
        return "Intel" if any(word in chip for word in ("intel", "xeon", "core i")) else "ARM"

    @property
    def precision(self) -> str:
        bits = self.row.weight_bits
        return "floats" if bits >= 16 else "8 bits" if bits >= 7 else "below 8 bits"

    @property
    def twin(self) -> tuple[object, ...]:
        """What a row in floats has in common with its quantized one."""
        row = self.row
        where = (row.chip, row.runtime, row.cores_or_threads)
        return (*where, row.model_or_op, row.batch, row.seq, row.metric)

    def shown(self, seconds: float) -> float:
        return self.row.in_unit(seconds, self.terms.things)


@dataclass(frozen=True)
class Result:
    """A case with its prediction; `depth` circles of its group were known."""

    case: Case
    seconds: float
    depth: int

    @property
    def log_error(self) -> float:
        return math.log(self.seconds / self.case.measured_s)

    @property
    def error(self) -> float:
        return abs(self.case.shown(self.seconds) / self.case.shown(self.case.measured_s) - 1)


def cases(path: Path = ROWS) -> tuple[list[Case], list[tuple[Row, str]]]:
    """The whole models of a table with times, and what was left aside with the reason."""
    found, refused = [], []
    profile_of = cache(lambda chip: load(chip_of(chip).profile))
    for row in read_rows(path)[1]:
        if row.is_product:
            continue
        if row.unit == RATIO:
            refused.append((row, "a ratio, predicted and not fitted"))
            continue
        try:
            profile = profile_of(row.chip)
            terms = terms_of(profile, row)
        except MixqError as error:
            refused.append((row, str(error)))
            continue
        measured = row.seconds(terms.things)
        group = group_of(row, terms.job.phase, profile.name, gpu=terms.gpu)
        if measured is not None:
            found.append(Case(row, terms, group, measured))
    return found, refused
