"""What containers of other packages have in common, for type checkers: none is imported."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from torch.utils.data import Dataset as TorchDataset

__all__ = ["Container"]


class _HasArray(Protocol):
    """An array, a table, a labelled array, a data set of a file: what NumPy reads."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


class _HasToArray(Protocol):
    """A sparse matrix."""

    def toarray(self) -> Any: ...


class _Interchanged(Protocol):
    """A table that others read, as those of pyarrow and polars."""

    def __arrow_c_stream__(self, *args: Any, **kwargs: Any) -> Any: ...


class _Annotated(Protocol):
    """An ``AnnData``."""

    @property
    def obs(self) -> Any: ...

    @property
    def obsm(self) -> Any: ...


class _ByColumn(Protocol):
    """A data set of Hugging Face."""

    @property
    def column_names(self) -> Any: ...

    @property
    def features(self) -> Any: ...


Container: TypeAlias = (
    _HasArray | _HasToArray | _Interchanged | _Annotated | _ByColumn | TorchDataset[Any]
)
"""What :mod:`pyro_vae.data.containers` reads, besides tensors, arrays and lists."""
