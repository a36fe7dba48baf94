"""One log per job, progress with rates, and errors that a reader can act on."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
import traceback
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


@contextmanager
def job(log: str | Path) -> Iterator[None]:
    """Log to stderr and to the file `log` while a job runs.

    An error ends it with exit status 1: an `InputError` in its message alone, any other with a traceback. Either way the last line
    tells where the log is.
    """
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(sys.stderr), logging.FileHandler(log, mode="w", encoding="utf-8")]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logger.setLevel(logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    where = f"the log of this job: {shlex.quote(str(Path(log).resolve()))}"
    try:
        yield
    except InputError as error:
        logger.error("%s\n%s", error, where)
        raise SystemExit(1) from None
    except Exception:
        logger.error("unexpected error\n%s%s", traceback.format_exc(), where)
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
