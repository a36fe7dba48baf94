"""Our part of benchmarks/correlation.py: correlate two files; seconds, peak memory in GiB and the number of pairs on stdout."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from feature_lineage.features.activations import ActivationFile
from feature_lineage.flow.correlation import correlate


def main() -> None:
    """Measure once and print."""
    a, b, threads = sys.argv[1:]
    started = time.perf_counter()
    table = correlate(ActivationFile(a), ActivationFile(b), 0.3, threads=int(threads))
    seconds = time.perf_counter() - started
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(seconds, int(peak[1]) / 2**20 if peak else float("nan"), len(table))


if __name__ == "__main__":
    main()
