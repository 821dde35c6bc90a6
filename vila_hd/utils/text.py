"""Text from files and libraries, made fit for a terminal."""

import unicodedata


def make_visible(text: str) -> str:
    """Text that cannot steer a terminal: control characters but line feeds and tabs as escapes."""
    return "".join(
        char if char in "\n\t" or not unicodedata.category(char).startswith("C") else ascii(char)[1:-1]
        for char in text
    )


def one_line(text: object) -> str:
    """The same without line breaks, whatever a file, a key or a library's error holds."""
    return make_visible(" ".join(str(text).split()))
