"""The error type for everything a user can mend."""


class VilaHDError(ValueError):
    """Bad input, a bad option or a bad checkpoint. The message is one line: the offending value, the fix.

    Command lines print it without a traceback and exit with status 2.
    """
