"""Large packages are imported without a search for garbage, and only by what needs them."""

import gc
import subprocess
import sys

import pytest

from feature_lineage.uncollected import uncollected

# Collections while a module loads: a thousand with nothing done about them.
COUNT = """
import gc, importlib
import numpy, pyarrow, torch
runs = []
gc.callbacks.append(lambda phase, _: runs.append(phase))
importlib.import_module("{module}")
gc.callbacks.clear()
print(runs.count("start"), gc.isenabled())
"""


@pytest.mark.parametrize("module", ["checkpoint", "hooks", "training"])
def test_a_module_of_large_packages_loads_without_collections(module):
    code = COUNT.format(module=f"feature_lineage.models.{module}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    runs, enabled = done.stdout.split()
    assert int(runs) < 150 and enabled == "True"


@pytest.mark.parametrize("was", [True, False])
def test_the_collector_is_left_as_it_was(was):
    (gc.enable if was else gc.disable)()
    try:
        with pytest.raises(ImportError), uncollected():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() is was
    finally:
        gc.enable()
