"""Annotated matrices: ``AnnData``, whose rows are observations and whose columns have names."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_vae._errors import unknown_name
from pyro_vae.data.containers.contents import Asked, Contents, array_of
from pyro_vae.data.containers.tables import columns_of

__all__ = ["read_annotated"]


def read_annotated(data: Any, asked: Asked) -> Contents:
    """Returns ``X``, or a layer, with the columns of ``obs`` beside it.

    Raises:
        ValueError: If there is no such layer, or no ``X``.
    """
    values = data.X
    if asked.layers is not None:
        if asked.layers not in data.layers:
            raise unknown_name("layers", asked.layers, list(data.layers))
        values = data.layers[asked.layers]
    elif values is None:
        raise unknown_name("layers", None, list(data.layers))
    return Contents(
        array_of(values, asked.argument),
        names=[str(name) for name in data.var_names],
        beside=columns_of(data.obs, asked.argument),
        index=np.asarray(data.obs_names, dtype=str),
    )
