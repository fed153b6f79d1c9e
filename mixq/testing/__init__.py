"""Contract suites: tests that a plug-in's author inherits; they need pytest and hypothesis."""

from mixq.testing.profile import ProfileContract

__all__ = ["ProfileContract"]
