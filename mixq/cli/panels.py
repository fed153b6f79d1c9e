"""Headings under which help lists options."""

from __future__ import annotations

from typing import Final

DEMANDS: Final = "What the plan must keep: at least one"
SUBJECT: Final = "Model, data and chip"
FORMATS: Final = "Formats that layers may take"
MEASURING: Final = "How it is measured and searched"
RUN: Final = "Folder and output"
SAID: Final = "What is said on stderr"
