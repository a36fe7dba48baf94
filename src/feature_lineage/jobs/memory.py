"""How the C library of a job's process keeps memory that was freed."""

from __future__ import annotations

from collections.abc import Mapping

# By default glibc hands what is freed at the end of its heap back to the system, and each step of a training gets the same megabytes
# again, page by page: a sixth of the CPU time of a small model's training. Blocks from 32 MiB on, glibc's own limit, go back as before.
KEPT: Mapping[str, str] = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**29)}
