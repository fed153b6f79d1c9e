"""Contract suites: tests that a plug-in's author inherits; they need pytest and hypothesis."""

from mixq.testing.profile import ProfileContract
from mixq.testing.rounding import RoundingContract
from mixq.testing.runtime import RuntimeContract

__all__ = ["ProfileContract", "RoundingContract", "RuntimeContract"]
