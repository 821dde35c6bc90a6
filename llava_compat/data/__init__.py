"""LLaVA, VILA, OpenAI and parquet data as one validated row type.

``python -m llava_compat.data`` checks a set and shows samples.
"""

from .formats import ReadOptions, make_row
from .problems import DataError, Source, Tolerance
from .reading import read_rows
from .registry import Registry, read_mixture, read_registry
from .row_sets import RowSet, open_mixture, open_rows
from .rows import ImageReference, Message, Row
from .turns import CONVENTIONS, Convention

__all__ = [
    "CONVENTIONS",
    "Convention",
    "DataError",
    "ImageReference",
    "Message",
    "ReadOptions",
    "Registry",
    "Row",
    "RowSet",
    "Source",
    "Tolerance",
    "make_row",
    "open_mixture",
    "open_rows",
    "read_mixture",
    "read_registry",
    "read_rows",
]
