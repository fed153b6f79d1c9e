"""Data frames: tables of results as pandas knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mixq.errors import MissingExtraError

if TYPE_CHECKING:
    from pandas import DataFrame


def data_frame(columns: Mapping[str, str], rows: Iterable[tuple[object, ...]]) -> DataFrame:
    """Rows as a data frame, in order, with the positions as index.

    Args:
        columns: names and pandas' types, which do not depend on the rows: an empty table has them
            too, and a number that is not known is missing (NaN or NA) in a column of numbers.
        rows: values in the order of the columns.

    Raises:
        MissingExtraError: if pandas is not installed.
    """
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise MissingExtraError("pandas", "pandas", "a data frame") from error
    return DataFrame.from_records(list(rows), columns=list(columns)).astype(dict(columns))
