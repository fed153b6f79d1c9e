"""Places: which rows of which weight unit a tensor shows, told by where it lies in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from mixq.graph.units import WeightUnit


@dataclass(frozen=True, slots=True)
class RowsOf:
    """Rows first..first + count - 1 of a unit's matrix, with all their columns."""

    unit: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Rows of a unit laid out in one storage; strides and offset count elements.

    Attributes:
        shows: the rows.
        columns: columns of the unit's matrix.
        start: offset of the first element.
        shape, stride: of the tensor that holds them.
        matrix_stride: of its (rows, columns) view; None if the layout has none.
    """

    shows: RowsOf
    columns: int
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    matrix_stride: tuple[int, int] | None

    @classmethod
    def of(cls, shows: RowsOf, columns: int, tensor: Tensor) -> _Place:
        return cls(
            shows=shows,
            columns=columns,
            start=int(tensor.storage_offset()),
            shape=tuple(tensor.shape),
            stride=tensor.stride(),
            matrix_stride=_matrix_stride(tensor, shows.count, columns),
        )

    def rows_at(self, offset: int, row_stride: int, count: int) -> RowsOf | None:
        """The `count` rows, `row_stride` elements apart, of which the first is at `offset`."""
        steps = offset - self.start
        if row_stride == 0 or steps < 0 or steps % row_stride:
            return None
        first = steps // row_stride
        if first + count > self.shows.count:
            return None
        return RowsOf(self.shows.unit, self.shows.first + first, count)


class Places:
    """Where the units lie, in the model's own memory and in copies that a forward pass makes."""

    def __init__(self, units: Iterable[WeightUnit], tensors: Mapping[str, Tensor]) -> None:
        """`tensors` holds every name of every unit."""
        self._own: dict[int, list[_Place]] = {}
        self._copies: dict[int, tuple[StorageWeakRef, _Place]] = {}
        for unit in units:
            for name in (unit.name, *unit.aliases):
                shows = RowsOf(unit.name, 0, unit.rows)
                place = _Place.of(shows, unit.columns, tensors[name])
                places = self._own.setdefault(_address(tensors[name]), [])
                if place not in places:
                    places.append(place)

    def units(self, tensor: Tensor) -> list[str]:
        """The units of which `tensor` shows some numbers."""
        first, last = _span(tensor.shape, tensor.stride(), int(tensor.storage_offset()))
        shown = [
            place.shows.unit
            for place in self._places(tensor)
            for low, high in [_span(place.shape, place.stride, place.start)]
            if low <= last and first <= high
        ]
        return list(dict.fromkeys(shown))

    def matrix(self, weight: Tensor) -> RowsOf | None:
        """The rows that a matrix of shape (outputs, contracted) consists of.

        None if it is no run of whole rows: a transposed matrix, or some columns only.
        """
        outputs, contracted = weight.shape
        for place in self._places(weight):
            if place.matrix_stride is None or contracted != place.columns:
                continue
            row_stride, column_stride = place.matrix_stride
            follows_columns = contracted == 1 or weight.stride(1) == column_stride
            follows_rows = outputs == 1 or weight.stride(0) == row_stride
            if follows_columns and follows_rows:
                found = place.rows_at(int(weight.storage_offset()), row_stride, outputs)
                if found is not None:
                    return found
        return None

    def kernel(self, weight: Tensor) -> RowsOf | None:
        """The rows that a convolution's weight (outputs, ...) consists of; None as in `matrix`."""
        for place in self._places(weight):
            same = tuple(weight.shape[1:]) == place.shape[1:] and weight.stride() == place.stride
            # Whatever the order in memory, outputs are rows.
            if same and place.shape[0] == place.shows.count:
                return place.rows_at(
                    int(weight.storage_offset()), place.stride[0], weight.shape[0]
                )
        stride = _matrix_stride(weight, weight.shape[0], weight[0].numel())
        return None if stride is None else self.matrix(weight.flatten(1))

    def copy(self, source: Tensor, copy: Tensor) -> None:
        """Note that `copy` holds the numbers of `source`, in another dtype or layout perhaps."""
        for address, (storage, _) in list(self._copies.items()):
            if storage.expired():
                del self._copies[address]
        for place in self._places(source):
            is_whole = tuple(source.shape) == place.shape and source.stride() == place.stride
            if is_whole and source.storage_offset() == place.start:
                self._put(_Place.of(place.shows, place.columns, copy), copy)
                return
            if source.dim() != 2:
                continue
            for seen, turned in ((source, copy), (source.t(), copy.t())):
                rows = self.matrix(seen)
                if rows is not None:
                    self._put(_Place.of(rows, place.columns, turned), copy)
                    return

    def _put(self, place: _Place, copy: Tensor) -> None:
        # Held weakly: an address is used again as soon as its memory is freed.
        self._copies[_address(copy)] = (StorageWeakRef(copy.untyped_storage()), place)

    def _places(self, tensor: Tensor) -> list[_Place]:
        address = _address(tensor)
        if address == 0:  # of every empty tensor
            return []
        copy = self._copies.get(address)
        if copy is not None and not copy[0].expired():
            return [copy[1]]
        return self._own.get(address, [])


def _span(shape: Sequence[int], stride: Sequence[int], start: int) -> tuple[int, int]:
    """Offsets of a tensor's first and last element."""
    return start, start + sum((s - 1) * step for s, step in zip(shape, stride, strict=True))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _matrix_stride(tensor: Tensor, rows: int, columns: int) -> tuple[int, int] | None:
    try:
        row, column = tensor.view(rows, columns).stride()
    except RuntimeError:  # torch's word for a layout that has no such view
        return None
    return row, column
