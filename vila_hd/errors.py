"""The error type for everything a user can mend."""


def one_line(text: object) -> str:
    """``text`` without line breaks, whatever a file, a key or a library's error holds."""
    return " ".join(str(text).split())


class VilaHDError(ValueError):
    """Bad input, a bad option or a bad checkpoint. The message is one line: the offending value, the fix.

    Command lines print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
