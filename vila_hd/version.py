"""The version, in the one place that setup.py and ``vila_hd.__version__`` both read."""

__version__ = "0.1.0"
