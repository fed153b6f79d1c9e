"""RuntimeModule: a runtime's session in the place of a PyTorch model."""

from __future__ import annotations

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
    """

    def __init__(self, session: Session, example: object = None) -> None:
        super().__init__()
        self.session = session
        self.input_names: tuple[str, ...] = getattr(session, "input_names", ())
        self._sequence: Any = type(example) if type(example) in (tuple, list) else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for these inputs.

        Raises:
            UsageError: if there is no tensor among them.
        """
        outputs = self.session.run(self._batch(args, kwargs))
        if set(outputs) == {ONLY}:
            return outputs[ONLY]
        if self._sequence is not None:
            return self._sequence(outputs.values())
        return NamedOutputs(outputs)

    def _batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Batch:
        named = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
        tensors = tuple(value for value in args if isinstance(value, Tensor))
        if not tensors and not named:
            raise UsageError("the model was called without a tensor; pass its inputs")
        if not named:
            return tensors if len(tensors) > 1 else tensors[0]
        return {**dict(zip(self.input_names, tensors, strict=False)), **named}
