"""Tables of numbers in Apache Parquet's files, read by row groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae._errors import expected
from pyro_vae.data.raw import EXACT, MISSING, with_missing
from pyro_vae.data.rows import Rows

__all__ = ["ParquetSource"]

_HELD = 2  # row groups, so that rows on both sides of an edge are read once


class ParquetSource:
    """Creates a source of the rows of a table of numbers, float32, shape ``(columns,)`` each.

    A row group is read as a whole, and the last two are held. What pandas wrote as the index of a
    table is none of its columns, as when it is read into memory.

    Args:
        path: The file.
        missing: Whether null and NaN are entries that nobody observed.

    Raises:
        ValueError: If it is no such file, a column holds no numbers, or pyarrow is not installed.
    """

    def __init__(self, path: Path, *, missing: bool = False) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            what = "pyarrow, to read .parquet files: pip install 'pyro-vae[data]'"
            raise expected("data", what, str(path)) from None
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise expected("data", "a Parquet file", str(path)) from error
        schema = self._file.schema_arrow
        index = set(map(str, (schema.pandas_metadata or {}).get("index_columns", ())))
        self._places = [i for i, name in enumerate(schema.names) if name not in index]
        fields = [schema.field(i) for i in self._places]
        for field in fields:
            if not (
                pa.types.is_integer(field.type)
                or pa.types.is_floating(field.type)
                or pa.types.is_boolean(field.type)
            ):
                reason = expected("data", f"numbers in the column {field.name}", str(field.type))
                raise ValueError(f"{reason}; `pv.data.load` makes numbers of words, in memory")
        self._is_integer = {each.name: pa.types.is_integer(each.type) for each in fields}
        self._pool = pa.default_memory_pool()
        self._missing = missing
        self.names = tuple(field.name for field in fields)
        if not self.names:
            raise expected("data", "a table with columns of numbers", str(path))
        known = self._file.metadata
        sizes = [known.row_group(i).num_rows for i in range(known.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.rows_a_block = max(sizes, default=1)
        self._held: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: np.ndarray, /) -> Rows:
        found = np.empty((len(rows), len(self.names)), dtype=np.float32)
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        for group in np.unique(groups):
            here = np.flatnonzero(groups == group)
            found[here] = self._group(int(group))[rows[here] - self._starts[group]]
        return with_missing(torch.from_numpy(found), self._missing)

    def _group(self, number: int) -> np.ndarray:
        """Returns the numbers of a row group, shape ``(rows, columns)``."""
        if number in self._held:
            return self._held[number]
        while len(self._held) >= _HELD:
            del self._held[next(iter(self._held))]
        table = self._file.read_row_group(number)
        found = np.empty((table.num_rows, len(self.names)), dtype=np.float32)
        for i, name in enumerate(self.names):
            found[:, i] = self._column(name, table.column(self._places[i]))
        del table
        self._pool.release_unused()
        self._held[number] = found
        return found

    def _column(self, name: str, column: Any) -> np.ndarray:
        if column.null_count and not self._missing:
            error = expected("data", f"a number in each row of {name}", f"{column.null_count} null")
            raise ValueError(f"{error}{MISSING}")
        values: np.ndarray = column.to_numpy()
        if values.dtype == object:  # truth values, of which some are missing
            values = values.astype(np.float32)
        if self._is_integer[name] and len(known := values[values == values]):
            # Where some are missing, those that are not are floating numbers by now.
            largest = max(known.max(), known.min(), key=lambda value: abs(float(value)))
            if abs(float(largest)) >= EXACT:
                what = f"integers below 2**24 in {name}, which float32 holds exactly"
                raise expected("data", what, int(largest))
        return values
