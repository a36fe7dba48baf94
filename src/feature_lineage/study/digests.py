"""SHA-256 of files that a study reads from outside, kept between processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

_LARGE = 10**9  # bytes, a second or more to read


class Checksums:
    """SHA-256 of files, each read once for as long as it stays the same.

    Args:
        store: file that keeps them between processes; it may be deleted.
        announce: told of each large file before it is read.
    """

    def __init__(self, store: str | Path, announce: Callable[[str], Any] = lambda message: None) -> None:
        self._store, self._announce = Path(store), announce

    def of(self, paths: Iterable[str | Path]) -> list[str]:
        """Digests of some files, of what links lead to."""
        known = self._known()
        found, fresh = [], {}
        for path in paths:
            place = os.path.realpath(path)
            status = Path(place).stat()
            # ctime changes even where a file is overwritten and its mtime set back.
            state = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            entry = known.get(place)
            if not isinstance(entry, list) or entry[:-1] != state:
                if status.st_size >= _LARGE:
                    self._announce(f"reading {path} ({status.st_size / 1e9:.1f} GB) to know whether it has changed")
                with open(place, "rb") as file:  # noqa: PTH123 - as fast as it gets
                    entry = [*state, hashlib.file_digest(file, "sha256").hexdigest()]
                known[place] = fresh[place] = entry
            found.append(entry[-1])
        if fresh:
            self._keep(fresh)
        return found

    def _known(self) -> dict[str, Any]:
        try:
            known = json.loads(self._store.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _keep(self, fresh: dict[str, Any]) -> None:
        whole = self._known() | fresh  # another process may have added some meanwhile
        aside = self._store.with_name(f"{self._store.name}.{os.getpid()}")
        try:
            self._store.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(whole), encoding="utf-8")
            aside.replace(self._store)
        except OSError:
            with suppress(OSError):
                aside.unlink()
