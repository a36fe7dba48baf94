"""Which device a job computes on, and what its log says of it."""

import logging

import pytest
import torch

from feature_lineage import devices


@pytest.fixture
def machine(monkeypatch, tmp_path, caplog):
    """A function: what the log says on a machine with this driver file, this build of torch and this GPU."""

    def log(driver, cuda, usable, visible="0"):
        (tmp_path / "driver").touch()
        monkeypatch.setattr(devices, "DRIVERS", (str(tmp_path / ("driver" if driver else "none")),))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "NVIDIA H100")
        devices._log.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.INFO, "feature_lineage"):
            for _ in range(3):
                place = devices.device()
        (record,) = caplog.records  # once, however often it is asked
        return place.type, record.levelname, record.getMessage()

    yield log
    devices._log.cache_clear()


def test_the_log_names_the_gpu_and_torchs_cuda(machine):
    place, level, message = machine(driver=True, cuda="13.0", usable=True)
    assert (place, level) == ("cuda", "INFO")
    assert message == f"computing on NVIDIA H100 (torch {torch.__version__}, CUDA 13.0)"


def test_the_log_says_that_there_is_no_gpu(machine):
    place, level, message = machine(driver=False, cuda=None, usable=False)
    assert (place, level, message) == ("cpu", "INFO", f"computing on the CPU (torch {torch.__version__}, CUDA none)")


def test_a_gpu_that_a_cpu_build_of_torch_cannot_use_is_a_warning_with_what_to_install(machine):
    place, level, message = machine(driver=True, cuda=None, usable=False)
    assert (place, level) == ("cpu", "WARNING")
    version = torch.__version__.partition("+")[0]
    assert "has a GPU that torch cannot use" in message
    assert f"install a build of torch {version} with CUDA" in message


def test_a_gpu_that_torch_does_not_find_is_a_warning(machine):
    place, level, message = machine(driver=True, cuda="13.0", usable=False)
    assert (place, level) == ("cpu", "WARNING")
    assert "nvidia-smi" in message and "CUDA 13.0" in message


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden_on_purpose_is_no_warning(machine, hidden):
    assert machine(driver=True, cuda=None, usable=False, visible=hidden)[1] == "INFO"
    assert not devices.has_gpu()
