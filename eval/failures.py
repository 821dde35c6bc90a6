"""What ends a run instead of being recorded with a sample."""

from vila_hd.errors import VilaHDError


class CannotGoOnError(VilaHDError):
    """The model cannot answer anything: no sample is to blame."""
