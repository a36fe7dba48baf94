"""A job's process keeps the memory that its steps free."""

import os
import subprocess
import sys

import pytest

from feature_lineage.jobs.memory import KEPT

STEPS, MEGABYTES = 50, 24
# A step that makes some matrices and frees them all, as one of a training does.
WORK = f"""
import resource
import numpy as np
def step():
    return [np.ones({MEGABYTES} << 17) for _ in range(2)] and None
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(kept):
    environment = {name: value for name, value in os.environ.items() if name not in KEPT}
    environment |= kept | {"NUMPY_MADVISE_HUGEPAGE": "0"}  # a huge page is one fault
    return int(subprocess.run([sys.executable, "-c", WORK], env=environment, capture_output=True, check=True).stdout)


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="of glibc alone")
def test_a_step_uses_the_memory_of_the_one_before():
    every = 2 * STEPS * (MEGABYTES << 20) // os.sysconf("SC_PAGESIZE")
    assert pages(dict(KEPT)) < every / 50
    # By default they are of the system again and again; else the two settings could go.
    assert pages({}) > every / 5
