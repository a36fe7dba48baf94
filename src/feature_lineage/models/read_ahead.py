"""An iterator that works ahead of its reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import Full, Queue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class ReadAhead:
    """An iterator that runs another one in a thread of its own, up to `depth` items ahead.

    `busy` counts the seconds that it has worked, `waited` those that its reader has waited for it.
    """

    def __init__(self, source: Iterator[torch.Tensor], depth: int) -> None:
        self.busy = self.waited = 0.0
        self._source = source
        self._items: Queue[torch.Tensor | BaseException | None] = Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()

    def __iter__(self) -> ReadAhead:
        return self

    def __next__(self) -> torch.Tensor:
        asked = time.monotonic()
        item = self._items.get()
        self.waited += time.monotonic() - asked
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise StopIteration
        return item

    def _work(self) -> None:
        item: torch.Tensor | BaseException | None = None
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                item = next(self._source, None)
            except BaseException as error:  # the reader is to see it
                item = error
            self.busy += time.monotonic() - began
            while not self._closed.is_set():
                try:
                    self._items.put(item, timeout=0.1)
                    break
                except Full:
                    continue
            if item is None or isinstance(item, BaseException):
                return
