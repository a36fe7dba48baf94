"""One log per job, progress with rates, and errors that a reader can act on."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

logger = logging.getLogger("feature_lineage")


class InputError(Exception):
    """Something that the reader can mend: the message names the file or key, what was found and the remedy."""


class Stopped(InputError):
    """The job was asked to stop and has saved what it had."""


# What moves a terminal's cursor, changes its title or turns the direction of writing; line breaks and tabs are left.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text with its control characters written out, as `\\x1b` or `\\u202e`: that of a corpus or an endpoint can hold any."""

    def escaped(found: re.Match[str]) -> str:
        number = ord(found[0])
        return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"

    return _UNPRINTABLE.sub(escaped, text)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def job(log: str | Path) -> Iterator[None]:
    """Log to stderr and to the file `log` while a job runs; an `InputError` ends it in one line, exit status 1."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(sys.stderr), logging.FileHandler(log, mode="w", encoding="utf-8")]
    for handler in handlers:
        handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logger.setLevel(logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        yield
    except InputError as error:
        logger.error("%s", error)
        raise SystemExit(1) from None
    except Exception:
        logger.exception("unexpected error; the log is %s", log)
        raise SystemExit(1) from None
    finally:
        for handler in handlers:
            handler.flush()


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and Ctrl-C into a question: yields a function that tells whether one has come.

    For jobs that ask it now and then, save what they have and end by raising `Stopped`. A second signal ends the job at once.
    """
    came = threading.Event()

    def handle(number: int, frame: object) -> None:
        came.set()
        restore()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield came.is_set
    finally:
        restore()


def progress(total: float, unit: str, label: str) -> tqdm[Any]:
    """A progress bar with a rate; on a terminal it moves, in a file it adds a line every 15 s."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        desc=label,
        unit_scale=True,
        mininterval=0.5 if terminal else 15.0,
        dynamic_ncols=terminal,
        file=sys.stderr,
        leave=terminal,
    )
