"""Engine: measures the quick way where that is shown to be right, else the plain way."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from mixq.errors import ModelError
from mixq.files import one_line
from mixq.rounding.replacement import Replacement
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.suffixes import Suffixes

_log = logging.getLogger(__name__)


class Engine:
    """Output errors of changed weights, to the bit those of `Reference.errors`.

    Only what follows a weight is run. The first measurement is made both ways and compared, and
    where the model's Python code may have looked at numbers, one of each unit on the first batch.
    Where a model cannot be taped, or a comparison fails, the plain way is taken and logged.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._compared: set[str] = set()
        self._suffixes: Suffixes | None = None
        try:
            self._suffixes = Suffixes(reference)
        except ModelError as error:
            self._give_up(error)

    def order(self, names: Sequence[str]) -> tuple[int, ...]:
        """Sorts what is measured: tensors in the order in which the model first reads them."""
        return () if self._suffixes is None else self._suffixes.first_use(frozenset(names))

    def errors(self, unit: str, replacement: Replacement, what: str) -> list[float]:
        """Output error of every sample, see `Reference.errors`.

        Args:
            unit: whose formats come one after the other.
            replacement: of its tensors.
            what: was changed, for messages.
        """
        if self._suffixes is None:
            return self._reference.errors(replacement, what)
        errors = self._suffixes.errors(replacement, what)
        if self._is_due(unit, replacement.tensors):
            batches = None if not self._compared else 1
            self._compared.add(unit)
            plain = self._reference.errors(replacement, what, batches)
            if plain != errors[: len(plain)]:
                self._give_up(f"with {what} it gives other bits than the model itself")
                return self._reference.errors(replacement, what)
        return errors

    def _is_due(self, unit: str, tensors: Mapping[str, object]) -> bool:
        if not tensors or unit in self._compared:
            return False
        return not self._compared or not (self._suffixes and self._suffixes.is_certain)

    def _give_up(self, why: object) -> None:
        self._suffixes = None
        _log.warning("the whole model is run for every measurement: %s", one_line(why, 300))
