"""One log per job, progress with rates, and errors that a reader can act on."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from feature_lineage.errors import InputError
from feature_lineage.printable import printable
from feature_lineage.progress import logger, named

NEXT = "run Snakemake again once this is solved; finished jobs are kept"  # the library does not know that it is run in jobs
PATIENCE = 60.0  # seconds that a job's own earlier run is waited for; a scheduler's grace between SIGTERM and SIGKILL is half of it


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _OfJob(_Printable):
    """For what several jobs share, a terminal: what is said along the way has the job's name. An error names what it is about."""

    def __init__(self, job: str) -> None:
        super().__init__(_FORMAT._fmt, _FORMAT.datefmt)
        self.job = job

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        head = f" {record.levelname} "
        return text if record.levelno >= logging.ERROR else text.replace(head, f"{head}{printable(self.job)}: ", 1)


_FORMAT = _Printable("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")


@contextmanager
def job(log: str | Path) -> Iterator[None]:
    """Log to stderr and to the file `log` while a job runs.

    An error ends it with exit status 1: an `InputError` or a lack of memory in a message alone, any other with a traceback. SIGTERM,
    which a scheduler's time limit is too, and Ctrl-C end it with 130. The last line tells where the log is.
    """
    gc.freeze()  # what was imported stays; to look through it for garbage as the job ends takes longer than many a job's work
    log = Path(log)
    stderr = logging.StreamHandler(sys.stderr)
    name = f"{log.parent.name} {log.stem}"
    stderr.setFormatter(_OfJob(name))
    logging.raiseExceptions = False  # on a full disk lines are lost, without a traceback for each
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=[stderr], force=True)
    logger.setLevel(logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    where = f"the log of this job: {shlex.quote(str(log.resolve()))}"
    before = signal.signal(signal.SIGTERM, _interrupt)
    lock = None
    try:
        mode = "a"  # one that is refused writes behind what the running one has written
        try:
            lock, mode = _lock(log), "w"
        finally:
            _begin(log, mode)
        with named(name):
            yield
    except Exception as error:
        if lack := _out_of_memory(error):
            told = (
                f"out of memory ({lack}); give the job more, or lower the `batch` of what it trains; "
                "on a cluster a retry asks for twice the main memory and the same GPU"
            )
        else:
            told = (
                f"{error}\n{NEXT}"
                if isinstance(error, InputError)
                else f"unexpected error\n{traceback.format_exc().rstrip()}"
            )
        logger.error("%s\n%s", told, where)
        raise SystemExit(1) from None
    except KeyboardInterrupt as interrupt:
        what = str(interrupt) or "Ctrl-C"
        logger.error("ended by %s; run Snakemake again, what has finished is kept\n%s", what, where)
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        for handler in logging.getLogger().handlers:
            with suppress(OSError):
                handler.flush()
        if lock:
            _lock_path(log).unlink(missing_ok=True)
            lock.close()


def _out_of_memory(error: BaseException | None) -> str | None:
    """What is said of the memory that was lacking, if any was. Readers take that for a damaged file; torch's CPU has no class for it."""
    while error is not None:
        text, kind = str(error), type(error).__name__
        if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in text:
            return text.strip().partition("\n")[0] or kind
        error = error.__cause__
    return None


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _begin(log: Path, mode: str) -> None:
    try:
        file = logging.FileHandler(log, mode=mode, encoding="utf-8")
    except OSError as error:
        logger.warning("%s: there is no log of this job (%s)", log, error)
        return
    file.setFormatter(_FORMAT)
    logging.getLogger().addHandler(file)


def _lock_path(log: Path) -> Path:
    return log.with_name(f".{log.name}.lock")


def _lock(log: Path) -> IO[bytes] | None:
    """Hold a lock beside the log until what is returned is closed: a job outlives a Snakemake that is killed, and must not meet its own
    second run. One that was asked to stop may still be saving, and is waited for. None where a file system has no locks, or no space.
    """
    patience = time.monotonic() + PATIENCE
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = _lock_path(log).open("ab+", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), _lock_path(log).stat()):
                    break
            except FileNotFoundError:  # the job that held it has ended between the two
                pass
            except BlockingIOError:
                if time.monotonic() > patience:
                    raise
                time.sleep(0.5)
            file.close()
    except BlockingIOError:
        file.seek(0)
        raise InputError(
            f"{log}: this job is still running, as {file.read().decode() or 'another process'}; the Snakemake that started it has died. "
            "Let it end, or end it"
        ) from None
    except OSError:
        return None
    with suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    return file


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and Ctrl-C into a question: yields a function that tells whether one has come.

    For jobs that ask it now and then, save what they have and end by raising `Stopped`. A second signal ends the job at once.
    A Snakemake that was killed cannot send any, and would make all again that its jobs finish without it: its end counts too.
    """
    came, parent = threading.Event(), os.getppid()

    def handle(number: int, frame: object) -> None:
        came.set()
        restore()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield lambda: came.is_set() or os.getppid() != parent
    finally:
        restore()
