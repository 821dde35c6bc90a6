"""Loggers of this library. Nothing is configured on import: applications decide what is shown."""

import logging
import sys

_WARNED: set[tuple[str, str]] = set()


class RankZeroFilter(logging.Filter):
    """Lets records through on the first process of a distributed run only; errors pass on every rank."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or _rank() == 0


def _rank() -> int:
    """Rank of this process; 0 outside a distributed run."""
    # Looked up, not imported: a logger must not be what loads torch, and without torch there are no ranks.
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 0
    return int(distributed.get_rank())


def get_logger(name: str) -> logging.Logger:
    """The logger ``name`` (use ``__name__``), silent below ERROR on all ranks but the first."""
    logger = logging.getLogger(name)
    if not any(isinstance(known, RankZeroFilter) for known in logger.filters):
        logger.addFilter(RankZeroFilter())
    return logger


def warn_once(logger: logging.Logger, message: str) -> None:
    """Log ``message`` as a warning the first time this process meets it for this logger."""
    key = (logger.name, message)
    if key not in _WARNED:
        _WARNED.add(key)
        logger.warning("%s", message)


def configure_for_terminal(*, verbose: bool = False) -> None:
    """For command lines only: our warnings (all messages when ``verbose``) as plain lines on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    for name in ("vila_hd", "llava_compat"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if verbose else logging.WARNING)
        logger.propagate = False
