"""torchvision and timm, imported with a torch that torchvision was not built for.

torchvision's own operators (nms, ...) are then missing, which no network here needs.
"""

from __future__ import annotations

from typing import Any

import torch

_register = torch.library.register_fake


def _lenient(name: str, *args: Any, **kwargs: Any) -> Any:
    if name.startswith("torchvision::"):
        return lambda function: function
    return _register(name, *args, **kwargs)


torch.library.register_fake = _lenient
import timm  # noqa: E402
import torchvision  # noqa: E402

torch.library.register_fake = _register
__all__ = ["timm", "torchvision"]
