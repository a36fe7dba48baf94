"""What every part may raise."""

from __future__ import annotations


class InputError(Exception):
    """Something that the reader can mend: the message names the file or key, what was found and the remedy."""


class Stopped(InputError):
    """The job was asked to stop and has saved what it had."""
