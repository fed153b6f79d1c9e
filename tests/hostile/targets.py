"""All targets."""

from __future__ import annotations

from .run_targets import RUN_TARGETS
from .source_targets import SOURCE_TARGETS

TARGETS = (*RUN_TARGETS, *SOURCE_TARGETS)
