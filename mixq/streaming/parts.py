"""Part: a module whose weights are put in place together while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mixq.errors import ModelError


@dataclass(frozen=True, eq=False)
class Part:
    """A module that is fetched, run and dropped as one.

    Attributes:
        path: its first name in the model.
        module: itself.
    """

    path: str
    module: nn.Module


def find_parts(model: nn.Module) -> list[Part]:
    """Modules that own all parameters of `model` between them, none within another.

    The elements of an outermost `nn.ModuleList` are the blocks. Around them, every module that
    owns a parameter is a part with all that is below it: an embedding, the last norm, the head.
    A module around blocks that owns a parameter itself is none; such parameters always stay.

    Raises:
        ModelError: if there are no blocks.
    """
    around = _around(model)
    parts: list[Part] = []
    blocks = 0
    seen: set[nn.Module] = set()

    def visit(path: str, module: nn.Module, *, is_block: bool) -> None:
        nonlocal blocks
        if module in seen or not any(True for _ in module.parameters()):
            return
        seen.add(module)
        owns = any(True for _ in module.parameters(recurse=False))
        if is_block or (owns and module not in around):
            parts.append(Part(path, module))
            blocks += is_block
            return
        for name, child in module.named_children():
            below = f"{path}.{name}" if path else name
            visit(below, child, is_block=isinstance(module, nn.ModuleList))

    visit("", model, is_block=False)
    if not blocks:
        raise ModelError(
            f"model {type(model).__name__} has no blocks (elements of an nn.ModuleList with "
            "parameters), so there is nothing to stream; analyze it without --stream"
        )
    return parts


def _around(model: nn.Module) -> set[nn.Module]:
    """The modules that have a ModuleList somewhere below them."""
    return {
        module
        for module in model.modules()
        if any(
            isinstance(below, nn.ModuleList) and any(True for _ in below.parameters())
            for below in module.modules()
            if below is not module
        )
    }
