"""The error type for everything a user can mend."""

from .utils.text import one_line


class VilaHDError(ValueError):
    """Bad input, a bad option or a bad checkpoint. The message is one line: the offending value, the fix.

    Command lines print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
