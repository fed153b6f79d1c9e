"""What mixq refuses, and how it says so.

Every message names the thing, the value, the rule and the way out, in one line, so that the
command line can print it as it stands. `exit_status` is the process status of the contract:
1 refused, 2 wrong usage, 3 demands that cannot be met together.
"""

from __future__ import annotations

from typing import ClassVar, Final

LONGEST: Final = 3900
"""Characters of a message, whatever it quotes."""


def one_line(text: object, limit: int = 300) -> str:
    """`text` fit for a message: control characters escaped, cut after `limit` characters.

    Names of files and layers come from outside, and a terminal obeys control characters.
    """
    start = str(text)[: limit + 1]
    if start.isprintable() and len(start) <= limit:
        return start
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in start)
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


class MixqError(Exception):
    """Base of every error that mixq raises on purpose.

    Its message is one printable line of bounded length, whatever a file or a library put into it.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message, LONGEST))


class UsageError(MixqError, ValueError):
    """Arguments that make no sense together or by themselves."""

    exit_status: ClassVar[int] = 2


class FormatError(MixqError, ValueError):
    """A number format that cannot exist, or that a unit cannot take."""


class ProfileError(MixqError, ValueError):
    """A hardware profile that is unknown, unreadable or breaks a rule of its schema."""


class SourceError(MixqError, ValueError):
    """A model or calibration that cannot be loaded from its spec."""


class CalibrationError(MixqError, ValueError):
    """Calibration data that are empty, or that the model does not take."""


class ModelError(MixqError, ValueError):
    """A model that mixq cannot work on: NaN weights, no weight units, unusable outputs."""


class NonFiniteError(ModelError):
    """A change to a model that makes its output NaN or infinite."""


class PlanError(MixqError, ValueError):
    """A plan that is malformed, or that belongs to another model."""


class ArtifactError(MixqError, ValueError):
    """A packed file that is damaged, or that belongs to another model."""


class ExportError(MixqError, ValueError):
    """A plan that a runtime cannot take, or a file that does not do what the plan promised."""


class OutputError(MixqError, OSError):
    """A file or folder that cannot be written, or that holds something else."""


class WorkerError(MixqError, RuntimeError):
    """A process that works for this one and has failed."""


class PluginError(MixqError, RuntimeError):
    """A package that brings a runtime or a rounding method, and does not keep its contract."""


class MissingExtraError(MixqError, ImportError):
    """An optional dependency that is not installed.

    Args:
        package: that is missing.
        extra: that brings it.
        purpose: what needs it.
        of: the package that has the extra; a plug-in names itself.
    """

    def __init__(self, package: str, extra: str, purpose: str, of: str = "mixq") -> None:
        self.package, self.extra = package, extra
        super().__init__(
            f"{purpose} needs {package!r}, which is not installed; "
            f"run: pip install '{of}[{extra}]'"
        )


class InfeasibleError(MixqError, ValueError):
    """Demands that no plan meets together.

    Attributes:
        ranges: for every demand, the feasible range in words (`"compression": "1.00 to 13.9"`).
    """

    exit_status: ClassVar[int] = 3

    def __init__(self, message: str, ranges: dict[str, str]) -> None:
        self.ranges = dict(ranges)
        super().__init__(message)
