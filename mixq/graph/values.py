"""Values: what a trace knows of every tensor, and how long each activation lives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from mixq.graph.units import WeightUnit


@dataclass(slots=True)
class Value:
    """What is known of one tensor and all its views, which share this object.

    Attributes:
        units: the weight units that it shows or is made of.
        producers: the nodes that wrote it.
        storage: index of its memory; None for weights and constants, which cost no live memory.
        is_active: whether it depends on an input of the network.
    """

    units: tuple[str, ...] = ()
    producers: tuple[str, ...] = ()
    storage: int | None = None
    is_active: bool = False


@dataclass(slots=True)
class _Life:
    size_bytes: int
    first: int
    last: int


class Values:
    """The values of a running trace."""

    def __init__(self, model: nn.Module, units: list[WeightUnit]) -> None:
        # By identity and weakly: an id is used again as soon as its tensor is gone.
        self._values: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._lives: list[_Life] = []
        self._steps = 0
        self._names = {name: unit.name for unit in units for name in (unit.name, *unit.aliases)}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.own(name, parameter)
        for buffer in model.buffers():
            self.put(buffer, Value())

    def of(self, tensor: Tensor) -> Value:
        """The value of a tensor; one that was never seen is an input of the network."""
        value: Value | None = self._values.get(tensor)
        if value is None:
            # Inputs are in memory from the start, whenever they are first read.
            value = Value(storage=self._allocate(tensor, first=0), is_active=True)
            self.put(tensor, value)
        return value

    def own(self, name: str, parameter: Tensor) -> None:
        """Note that `parameter` is the model's one of that name."""
        self.put(parameter, Value(units=(self._names[name],) if name in self._names else ()))

    def put(self, tensor: Tensor, value: Value) -> None:
        """Note the value of a tensor."""
        self._values[tensor] = value

    def step(self) -> None:
        """Begin the next operation."""
        self._steps += 1

    def use(self, value: Value) -> None:
        """Keep a value alive up to the current operation."""
        if value.storage is not None:
            life = self._lives[value.storage]
            life.last = max(life.last, self._steps)

    def write(
        self, tensor: Tensor, others: list[tuple[Tensor, Value]], node: str, *, is_active: bool
    ) -> Value:
        """Note that `node` wrote `tensor`, in new memory or in that of one of `others`."""
        start = tensor.untyped_storage().data_ptr()
        value = Value()
        for other, known in others:
            is_weight = known.storage is None and known.units
            if start != 0 and other.untyped_storage().data_ptr() == start and not is_weight:
                # What overwrites a view is read through every other view: they share the value.
                value = known
                break
        value.units = ()
        value.producers = (node,)  # which has an edge from whoever wrote the memory before
        value.is_active = value.is_active or is_active
        if value.storage is None:
            value.storage = self._allocate(tensor, first=self._steps)
        self.put(tensor, value)
        return value

    def peak_bytes(self, results: list[Tensor]) -> int:
        """Largest sum of live memory; `results` live to the end."""
        for tensor in results:
            if tensor in self._values:
                self.use(self._values[tensor])
        change = [0] * (self._steps + 2)
        for life in self._lives:
            change[life.first] += life.size_bytes
            change[life.last + 1] -= life.size_bytes
        live = peak = 0
        for step in change:
            live += step
            peak = max(peak, live)
        return peak

    def _allocate(self, tensor: Tensor, *, first: int) -> int:
        # An expanded tensor is smaller than its shape says, a slice smaller than its storage.
        size = min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
        self._lives.append(_Life(size, first, self._steps))
        return len(self._lives) - 1
