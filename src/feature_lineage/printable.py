"""Text of others, as it can be shown."""

import re

# What moves a terminal's cursor, changes its title or turns the direction of writing; line breaks and tabs are left.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text with its control characters written out, as `\\x1b` or `\\u202e`: that of a corpus or an endpoint can hold any."""

    def escaped(found: re.Match[str]) -> str:
        number = ord(found[0])
        return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"

    return _UNPRINTABLE.sub(escaped, text)
