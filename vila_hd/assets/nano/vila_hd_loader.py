"""Loads this checkpoint with the package vila-hd, for trust_remote_code=True."""

try:
    from vila_hd import VilaHDConfig, VilaHDForConditionalGeneration, VilaHDModel, VilaHDProcessor
    from vila_hd.remote_code import make_known_by_name
except ImportError as error:
    raise ImportError("this checkpoint needs the package vila-hd: pip install vila-hd") from error

make_known_by_name()

__all__ = ["VilaHDConfig", "VilaHDForConditionalGeneration", "VilaHDModel", "VilaHDProcessor"]
