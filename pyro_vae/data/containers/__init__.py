"""What holds data in Python: tables, labelled arrays, sparse matrices, data sets, open files.

A container is known by the package that its class comes from, which is therefore imported already:
none is imported here. A new one is its reader and its line in ``READS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.data.containers.annotated import read_annotated
from pyro_vae.data.containers.contents import Asked, Contents, array_of, raw_of
from pyro_vae.data.containers.hugging_face import read_columns, read_splits
from pyro_vae.data.containers.keyed import parts_of
from pyro_vae.data.containers.labelled import read_labelled
from pyro_vae.data.containers.tables import as_frame, read_table
from pyro_vae.data.containers.torch_sets import read_torch_set
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.raw import Raw, refuse_unreadable

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Asked",
    "Contents",
    "contents_of",
    "contents_or_value",
    "from_container",
    "is_container",
    "package_of",
    "raw_of",
]

Read = Callable[[Any, Asked], Contents]


def _of_array(data: Any, asked: Asked) -> Contents:
    """Sparse matrices, and arrays that are read as a whole: of HDF5, Zarr and others."""
    return Contents(array_of(data, asked.argument))


READS: Mapping[str, Read] = {
    "anndata": read_annotated,
    "cudf": read_table,
    "dask": _of_array,
    "datasets": read_columns,
    "duckdb": read_table,
    "h5py": _of_array,
    "ibis": read_table,
    "modin": read_table,
    "narwhals": read_table,
    "pandas": read_table,
    "polars": read_table,
    "pyarrow": read_table,
    "pyspark": read_table,
    "scipy": _of_array,
    "sparse": _of_array,
    "torch": read_torch_set,
    "xarray": read_labelled,
    "zarr": _of_array,
}
_TAKES_KEY = ("datasets", "h5py", "torch", "xarray", "zarr")


def from_container(data: Any, asked: Asked) -> Raw | pd.DataFrame | None:
    """Returns the values of a container, checked; a table as pandas has it; None if it is neither.

    Raises:
        ValueError: If it does not hold what was asked for, or no finite numbers.
    """
    if (package := package_of(data)) is None:
        return None
    for name, known in (("key", _TAKES_KEY), ("layers", ("anndata",))):
        if getattr(asked, name) is not None and package not in known:
            raise expected(name, f"None with a {type(data).__name__}", getattr(asked, name))
    for name, value in asked.text.given().items():
        raise expected(name, "None with data that are no .txt file, of lines of text", value)
    if package == "datasets" and isinstance(data, Mapping):
        return raw_of(read_splits(data, asked), asked)
    if package in ("h5py", "zarr") and hasattr(data, "keys"):
        return raw_of(parts_of({str(name): data[name] for name in list(data)}, asked), asked)
    if READS[package] is read_table:
        return as_frame(data, asked.argument)
    return raw_of({"train": READS[package](data, asked)}, asked)


def contents_of(data: Any, asked: Asked) -> Contents:
    """Returns what a container holds that is one split.

    Raises:
        ValueError: If no array is in it.
    """
    package = package_of(data)
    if package is None:
        raise expected(asked.argument, "a container of observations", data)
    return READS[package](data, asked)


def is_container(data: Any) -> bool:
    """Returns whether something is a container of another package."""
    return package_of(data) is not None


def contents_or_value(value: Any, argument: str) -> Any:
    """Returns the contents of a container, and anything else as it is, or as NumPy reads it.

    Raises:
        ValueError: If it is data that are first to be loaded, or no array is in it.
    """
    if isinstance(value, Dataset):
        raise expected(argument, 'one split of a data set, such as `data.rows("test")`', value)
    if isinstance(value, str | os.PathLike):
        what = f"data; `pv.data.load({os.fspath(value)!r})` reads a file or a named set"
        raise expected(argument, what, value)
    if isinstance(value, Tensor):
        refuse_unreadable(value, argument)
        return value
    if (package := package_of(value)) is None:
        known = isinstance(value, np.ndarray | np.generic) or not hasattr(value, "__array__")
        return value if known else array_of(value, argument)
    if package == "datasets" and isinstance(value, Mapping):
        raise expected(argument, "one split of a DatasetDict", list(value))
    return READS[package](value, Asked(argument=argument))


def package_of(data: Any) -> str | None:
    """Returns the package that a container's class, or one that it derives from, is of."""
    if isinstance(data, Tensor | np.ndarray | np.generic | list | tuple | str | bytes):
        return None
    if isinstance(data, torch.Size | torch.device | torch.dtype | torch.nn.Module):
        return None
    for kind in type(data).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in READS:
            return package
    return None
