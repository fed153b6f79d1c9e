"""How large a model a configuration asks for, before any of it is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from mixq.errors import SourceError

SMALLEST_BYTES: Final = 0.25
"""Of one stored parameter: 8 bits, and parameters that are tied count up to four times here."""
SPARE: Final = 2**20
"""Parameters that need not be stored: tiny models have tables that are computed."""


def require_stored(folder: Path, model_class: Any, config: Any) -> None:
    """Refuse a configuration that asks for far more parameters than the folder's weights can be.

    The model is built without memory (on torch's meta device); what cannot be built is left to
    whoever loads it.

    Args:
        folder: with safetensors weights.
        model_class: of transformers, an Auto class or a model's own.
        config: of transformers.

    Raises:
        SourceError: if it does.
    """
    build = getattr(model_class, "from_config", None) or model_class._from_config
    with torch.device("meta"):
        model = build(config)
    asked = sum(parameter.numel() for parameter in model.parameters())
    stored_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if asked > stored_bytes / SMALLEST_BYTES + SPARE:
        raise SourceError(
            f"folder {str(folder)!r} has a config.json that asks for {asked:,} parameters, but "
            f"its weights have {stored_bytes:,} bytes; use a complete checkpoint"
        )
