"""What replies cost, and the ledger that keeps every one that was paid."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from feature_lineage.errors import InputError
from feature_lineage.store.writing import disk_faults_named


class Bill(NamedTuple):
    """What an endpoint billed: tokens of prompts and of replies, and USD."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0

    def plus(self, other: Bill) -> Bill:
        """The sum of two bills."""
        return Bill(*(a + b for a, b in zip(self, other, strict=True)))


class _Account:
    """What the entries of a ledger come to, and where in it the replies are. A last line that is cut short is not counted."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.places: dict[str, tuple[int, int]] = {}
        self.bills: dict[str, Bill] = {}
        self.open: dict[str, list[float]] = {}  # requests without a reply, and what each may have cost
        self.spent = 0.0
        self.size = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                self.count(json.loads(line), len(line))
            except (ValueError, KeyError, TypeError, IndexError, StopIteration, AttributeError):
                raise InputError(
                    f"{path}: line {number} is damaged; delete that line, and what it holds is asked and paid again"
                ) from None

    def count(self, entry: dict[str, Any], length: int) -> None:
        if "asked" in entry:
            self.open.setdefault(entry["asked"], []).append(float(entry["usd"]))
            self.spent += float(entry["usd"])
        else:
            digest = next(entry[kind] for kind in ("reply", "failed", "unpaid") if kind in entry)
            self.spent -= self.open[digest].pop()
            if not self.open[digest]:
                del self.open[digest]
            if "unpaid" not in entry:
                self.spent += float(entry["usd"])
                bill = Bill(
                    int(entry.get("prompt_tokens", 0)), int(entry.get("completion_tokens", 0)), float(entry["usd"])
                )
                self.bills[digest] = self.bills.get(digest, Bill()).plus(bill)
            if "reply" in entry and _usable(entry):
                self.places[digest] = (self.size, length)
        self.size += length


class Ledger:
    """Requests sent and replies received, one JSON object a line, on disk before anything else happens with them.

    In memory are the places of the replies only. A last line that a kill cut short is removed.

    Raises:
        InputError: another line is damaged, or another job uses the ledger.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with disk_faults_named(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)  # nothing that a full disk refused is written later
        self._lock = threading.Lock()
        with suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise InputError(f"{path}: another job is using these replies; let it end, or end it first") from None
        try:
            with self.path.open("rb") as entries:
                self._account = _Account(self.path, entries)
        except InputError:
            self._file.close()
            raise
        self._file.truncate(self._account.size)

    def close(self) -> None:
        """Let another job use the ledger."""
        self._file.close()

    @property
    def answered(self) -> bool:
        """Whether it holds any reply."""
        return bool(self._account.places)

    def bill(self, digest: str) -> Bill:
        """What was billed for a request, all its replies and failures together."""
        return self._account.bills.get(digest, Bill())

    @property
    def spent(self) -> float:
        """USD: what the replies cost, and the most that requests without a reply can have cost."""
        return self._account.spent

    def reply(self, digest: str) -> dict[str, Any] | None:
        """The reply to a request, if there is one."""
        place = self._account.places.get(digest)
        return json.loads(os.pread(self._file.fileno(), *place[::-1])) if place else None

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry: `asked` (with `usd`, the most it can cost), then `unpaid`, `failed` or `reply` (both with `usd`); all name the
        request's digest."""
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._lock, disk_faults_named(self.path):
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._file.fileno(), self._account.size)
                raise
            self._account.count(entry, len(line))


def allowance(budget: float, jobs: int, path: Path) -> float:
    """USD that all requests of a ledger may cost: an equal share of the budget, or what is left of it by the folder's other ledgers.

    Ledgers of models that are no longer in the study count too. What one job leaves of its share is no other's.

    Args:
        budget: of all jobs, USD.
        jobs: who share it.
        path: the ledger.
    """
    others = 0.0
    for other in sorted(path.parent.glob("*.jsonl")):
        if other != path:
            with other.open("rb") as file:
                others += _Account(other, file).spent
    return min(budget / jobs, budget - others)


def _usable(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of a ledger is a reply. Ledgers of earlier versions hold failed requests in their form, without a text."""
    text = entry.get("text")
    return "refused" in entry or (isinstance(text, str) and bool(text.strip()) and entry.get("finish") != "error")
