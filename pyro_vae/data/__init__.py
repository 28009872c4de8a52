"""Data as tensors: named sets, arrays and files, split and ready for a likelihood."""

from pyro_vae.data.bags import bag_of_words, sentences
from pyro_vae.data.dataset import Dataset, base_measure_of
from pyro_vae.data.inspection import DataReport, inspect
from pyro_vae.data.loading import load
from pyro_vae.data.named import NAMES
from pyro_vae.data.rows import Conditions, Given, Numbers, Rows, RowsLike
from pyro_vae.data.schema import Field, Schema
from pyro_vae.data.source import Source, Stream
from pyro_vae.data.sources import stream

__all__ = [
    "NAMES",
    "Conditions",
    "DataReport",
    "Dataset",
    "Field",
    "Given",
    "Numbers",
    "Rows",
    "RowsLike",
    "Schema",
    "Source",
    "Stream",
    "bag_of_words",
    "base_measure_of",
    "inspect",
    "load",
    "sentences",
    "stream",
]
