"""Tables in Apache Parquet's files: ``.parquet``."""

from __future__ import annotations

from pathlib import Path

from pyro_vae._errors import expected
from pyro_vae.data.frames import Table
from pyro_vae.data.readers.csv_files import Reading

__all__ = ["read_parquet"]


def read_parquet(path: Path, how: Reading, *, missing: bool = False) -> Table:
    """Returns the table of a file, whose columns have names and dtypes of their own.

    Raises:
        ValueError: If it is no such file, or pyarrow is not installed.
    """
    import pandas as pd

    try:
        import pyarrow as pa
    except ImportError:
        what = "pyarrow, to read .parquet files: pip install 'pyro-vae[data]'"
        raise expected("data", what, str(path)) from None
    try:
        frame = pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise expected("data", "a Parquet file", str(path)) from error
    return Table(frame)
