"""RuntimeModule: a runtime's session in the place of a PyTorch model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mixq.batch import Batch
from mixq.errors import UsageError
from mixq.export.runtime import Session
from mixq.sensitivity.outputs import ONLY


class NamedOutputs(dict[str, Any]):
    """Outputs by name, also as attributes and, in their order, by number."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"the outputs are {', '.join(self)}, and {name!r} is none of them")

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return list(self.values())[key]
        return super().__getitem__(key)


class RuntimeModule(nn.Module):
    """A module that computes in another runtime, without gradients.

    It takes tensors as the original model did, by position or by name; what is no tensor is
    passed over. A model that returned one tensor returns one, one that returned a tuple or list of
    tensors returns it; others return `NamedOutputs`.

    Args:
        session: of the loaded file.
        example: an output of the original, for its structure.
        names: of the arguments that the original takes by position.
    """

    def __init__(
        self, session: Session, example: object = None, names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.session = session
        self._names = tuple(names)
        self._sequence: Any = type(example) if type(example) in (tuple, list) else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for these inputs.

        Raises:
            UsageError: if there is no tensor among them.
        """
        inputs: tuple[str, ...] = getattr(self.session, "input_names", ())
        # By name where the file has the original's names: its inputs may have another order.
        same = bool(inputs) and set(inputs) <= {*self._names, *kwargs}
        batch = call_batch(args, kwargs, self._names if same else inputs, by_name=same)
        outputs = self.session.run(batch)
        if set(outputs) == {ONLY}:
            return outputs[ONLY]
        if self._sequence is not None:
            return self._sequence(outputs.values())
        return NamedOutputs(outputs)


def call_batch(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str], *, by_name: bool = False
) -> Batch:
    """The tensors of a call; what is no tensor is passed over.

    Args:
        args: of the call.
        kwargs: of the call.
        names: of the arguments by position.
        by_name: whether names are wanted even where every tensor has its position.

    Raises:
        UsageError: if there is no tensor among them.
    """
    tensors = tuple(value for value in args if isinstance(value, Tensor))
    named = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    if not tensors and not named:
        raise UsageError("the model was called without a tensor; pass its inputs")
    if not named and not by_name and all(isinstance(value, Tensor) for value in args):
        return tensors[0] if len(tensors) == 1 else tensors
    placed = zip(names, args, strict=False)
    return {**{name: value for name, value in placed if isinstance(value, Tensor)}, **named}
