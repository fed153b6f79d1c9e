"""Dispatch: what torch really runs in a forward pass, below modules."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Dispatch(TorchDispatchMode, ABC):
    """Is told of every operation while it is on; composite operators are seen by their parts."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @abstractmethod
    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Is called after each operation.

        Args:
            func: the ATen operator.
            args: its positional arguments, of which it may have overwritten some.
            kwargs: its other arguments, likewise.
            output: what it returned.
        """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # Inference mode hands over composite operators, which are seen by their parts.
        with self:
            output = func.decompose(*args, **kwargs)
        if output is not NotImplemented:
            return output
        output = func(*args, **kwargs)
        self.see(func, args, kwargs, output)
        return output


@contextlib.contextmanager
def attention_in_parts() -> Iterator[None]:
    """Without the fused attention layer, which hides its matrix products from a `Dispatch`."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


@contextlib.contextmanager
def module_paths(model: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep the names of the running modules in `path`, innermost last."""

    def leave(_module: nn.Module, _args: object, _output: object) -> None:
        path.pop()

    handles = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # refuses hooks
                continue
            handles.append(
                module.register_forward_pre_hook(lambda _m, _a, name=name: path.append(name))
            )
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(tree: object) -> list[Tensor]:
    """The tensors of nested arguments or outputs, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
