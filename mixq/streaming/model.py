"""StreamedModel: a model whose weights lie on disk, part by part."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import _disable_current_modes

from mixq.activations.wiring import quantized_inputs
from mixq.errors import ModelError
from mixq.graph.build import graph_of
from mixq.graph.find import check_finite, units_of
from mixq.graph.model_graph import ModelGraph
from mixq.graph.state import StoredTensor, digest_of
from mixq.graph.units import WeightUnit
from mixq.progress import Progress, silent, track
from mixq.rounding.replacement import Replacement
from mixq.rounding.rounder import Rounder
from mixq.streaming.doors import Doors
from mixq.streaming.parts import Part, find_parts
from mixq.streaming.shards import Shards

READING = "reading weights"


class StreamedModel:
    """A model without its parameters, and the shards that they are fetched from.

    Args:
        name: of the model.
        model: in eval mode, its parameters absent.
        stored: what it stores.
        shards: what holds that.
        keys: the name in the shards of every stored tensor, by its first name.

    Attributes:
        model: parameters are absent unless their part runs.
        units: its weight units by name: the same, in the same order, as of the loaded model.
        parts: what is in memory together.
        doors: of the parts.

    Raises:
        ModelError: if it has no blocks, or no weight units, or a unit outside all parts.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        stored: Sequence[StoredTensor],
        shards: Shards,
        keys: Mapping[str, str],
    ) -> None:
        self.name = name
        self.model = model
        self.units: dict[str, WeightUnit] = {u.name: u for u in units_of(model, stored)}
        self.parts = find_parts(model)
        self.doors = Doors(self.parts)
        self._stored = stored
        self._shards = shards
        self._keys = keys
        self._absent = dict(model.named_parameters(remove_duplicate=False))
        self._first = {alias: item.names[0] for item in stored for alias in item.names}
        self._owners = self._owners_of_parameters()
        self._aliases = {part: self._aliases_in(part) for part in self.parts}
        self._units = {
            part: {name: unit for name, unit in self.units.items() if name in self._names(part)}
            for part in self.parts
        }
        self._held: dict[str, nn.Parameter] = {}
        self._watch: Callable[[str, Tensor], None] | None = None
        self._fingerprint: str | None = None
        self._keep_the_rest()

    def units_in(self, part: Part) -> Mapping[str, WeightUnit]:
        """The units that the part's weights are, tied ones among them."""
        return self._units[part]

    @property
    def held(self) -> frozenset[str]:
        """First names of the parameters that are in memory."""
        return frozenset(self._held)

    @contextlib.contextmanager
    def in_memory(self, part: Part) -> Iterator[None]:
        """The part's parameters are in memory meanwhile; those that are already are shared.

        They are the model's only while the part runs: code around it that took one would get
        numbers whose changes and gradients nobody sees.
        """
        new = self._names(part) - self._held.keys()
        with _disable_current_modes():  # a trace is of the model, not of what fetches it
            found = self._shards.fetch(self._keys[name] for name in new)
        try:
            for name in new:
                wants_gradient = self._absent[name].requires_grad
                self._held[name] = nn.Parameter(found.pop(self._keys[name]), wants_gradient)
                if self._watch is not None:
                    self._watch(name, self._held[name])
            yield
        finally:
            for name in new:
                self._held.pop(name, None)

    def weight(self, unit: str) -> nn.Parameter:
        """The weight of a unit that is in memory."""
        return self._held[unit]

    def rounder(self, part: Part) -> Rounder:
        """What formats make of the units of a part that is in memory."""
        with self._in_place():
            return Rounder(self.model, self.units_in(part))

    def run(
        self,
        part: Part,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        replacement: Replacement | None = None,
    ) -> Any:
        """The output of a part that is in memory, perhaps with other tensors for this call."""
        replacement = replacement or Replacement()
        placed = {
            # torch chooses kernels by whether a weight wants a gradient.
            name[len(part.path) + 1 :]: tensor.detach().requires_grad_(
                self._absent[name].requires_grad
            )
            for name, tensor in replacement.tensors.items()
            if name in self._aliases[part]
        }
        with (
            self._in_place(),
            self.doors.opened(part),
            quantized_inputs(self.model, replacement.inputs),
        ):
            if placed:
                return functional_call(part.module, placed, args, dict(kwargs), tie_weights=False)
            return part.module(*args, **kwargs)

    def graph(self, run: Callable[[], object], *, batch_size: int = 1) -> ModelGraph:
        """Trace `run()`, which calls the model, as `mixq.graph.build.build_graph` does."""

        def visit(part: Part, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
            with self.in_memory(part):
                return self.run(part, args, kwargs)

        def watch(placed: Callable[[str, Tensor], None]) -> None:
            self._watch = placed

        try:
            with self.doors.closed(), self.doors.visited_by(visit):
                return graph_of(
                    self.model, self._stored, list(self.units.values()), run,
                    batch_size=batch_size, watch=watch,
                )  # fmt: skip
        finally:
            self._watch = None

    def fingerprint(self, progress: Progress = silent) -> str:
        """As `mixq.graph.state.fingerprint` of the loaded model; reads all weights once.

        Raises:
            ModelError: if a weight is NaN or infinite.
        """
        if self._fingerprint is None:
            self._fingerprint = digest_of(self._read(progress))
        return self._fingerprint

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """What is in memory is the model's, under all names that it has for it."""
        places = [
            (owner, leaf, parameter)
            for name, parameter in self._held.items()
            for owner, leaf in self._owners[name]
        ]
        before = [owner._parameters[leaf] for owner, leaf, _ in places]
        try:
            for owner, leaf, parameter in places:
                owner._parameters[leaf] = parameter
            yield
        finally:
            for (owner, leaf, _), absent in zip(places, before, strict=True):
                owner._parameters[leaf] = absent

    def _read(self, progress: Progress) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        items = sorted(self._stored, key=lambda item: sorted(item.names))
        for item in track(items, READING, len(items), progress):
            key = self._keys[item.names[0]]
            tensor = self._shards.fetch([key])[key]
            if item.is_parameter and tensor.is_floating_point():
                check_finite(item.names[0], tensor)
            yield tuple(sorted(item.names)), tensor

    def _names(self, part: Part) -> set[str]:
        """First names of the part's parameters."""
        return {self._first[alias] for alias in self._aliases[part]}

    def _aliases_in(self, part: Part) -> frozenset[str]:
        """Names of the part's parameters, one for each place within it."""
        found = {
            f"{part.path}.{path}.{leaf}" if path else f"{part.path}.{leaf}"
            for path, module in part.module.named_modules()
            for leaf, _ in module.named_parameters(recurse=False, remove_duplicate=False)
        }
        return frozenset(found)

    def _owners_of_parameters(self) -> dict[str, list[tuple[nn.Module, str]]]:
        """The modules and attributes that hold each parameter, by its first name."""
        found: dict[str, list[tuple[nn.Module, str]]] = {}
        for path, module in self.model.named_modules():
            for leaf, _ in module.named_parameters(recurse=False, remove_duplicate=False):
                name = self._first[f"{path}.{leaf}" if path else leaf]
                found.setdefault(name, []).append((module, leaf))
        return found

    def _keep_the_rest(self) -> None:
        """Put in place for good what no part owns: buffers, and single parameters in between."""
        streamed = {name for part in self.parts for name in self._names(part)}
        rest = [item for item in self._stored if item.names[0] not in streamed]
        outside = [item.names[0] for item in rest if item.names[0] in self.units]
        if outside:
            raise ModelError(
                f"{outside[0]} belongs to a module around blocks, where it cannot be streamed; "
                "analyze this model without --stream"
            )
        found = self._shards.fetch(self._keys[item.names[0]] for item in rest)
        for item in rest:
            tensor = found[self._keys[item.names[0]]]
            if item.is_parameter:
                parameter = nn.Parameter(tensor)
                for owner, leaf in self._owners[item.names[0]]:
                    owner._parameters[leaf] = parameter
            else:
                for name in item.names:
                    path, _, leaf = name.rpartition(".")
                    self.model.get_submodule(path)._buffers[leaf] = tensor
