"""WeightUnit: one floating-point parameter that may be quantized by itself."""

from __future__ import annotations

from dataclasses import dataclass

from mixq.formats import Format
from mixq.graph.work import Work


@dataclass(frozen=True, slots=True)
class WeightUnit:
    """A parameter of two or more dimensions, found by parameter and not by module type.

    Parameters that share storage are one unit. The weights are seen as a matrix: a convolution
    is (output channels, everything else), anything else is (everything else, last dimension).

    Attributes:
        name: the first of the parameter's names, as in `state_dict()`.
        aliases: further names of the same storage.
        shape: shape of the parameter.
        rows: rows of the matrix view; a scale never spans two rows.
        columns: columns of the matrix view.
        element_bytes: bytes of one weight as the model holds it.
        module: class name of the module that owns the parameter.
        work: the operations that read it in one forward pass of the workload, in order;
            empty if the traced batch never reached it.
    """

    name: str
    shape: tuple[int, ...]
    rows: int
    columns: int
    element_bytes: int
    module: str
    aliases: tuple[str, ...] = ()
    work: tuple[Work, ...] = ()

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.rows * self.columns

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one forward pass that read this unit."""
        return sum(work.macs for work in self.work)

    def stored_bytes(self, fmt: Format) -> int:
        """Exact bytes of this unit in `fmt`."""
        return fmt.stored_bytes(self.rows, self.columns, self.element_bytes)
