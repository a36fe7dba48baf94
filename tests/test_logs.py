import errno
import fcntl
import logging
import signal
import socket
import subprocess
import sys
import threading
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch

from feature_lineage.errors import InputError
from feature_lineage.jobs.job import job
from feature_lineage.progress import logger, progress


@pytest.fixture(autouse=True)
def logging_as_before():
    """`job` takes over the whole process's logging; give it back."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, logger.level
    yield
    logging.captureWarnings(False)
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logger.setLevel(own)


def test_job_logs_to_its_file_and_to_stderr(tmp_path, capsys):
    with job(tmp_path / "logs" / "step.log"):
        logger.info("read %d documents", 3)
        logging.getLogger("another.library").info("chatter")
        warnings.warn("take care", stacklevel=1)
    text = (tmp_path / "logs" / "step.log").read_text(encoding="utf-8")
    assert "INFO read 3 documents" in text
    assert "take care" in text
    assert "chatter" not in text
    assert "read 3 documents" in capsys.readouterr().err


def _read_too_much():
    try:
        pa.allocate_buffer(1 << 60)
    except pa.ArrowException as error:
        raise InputError("flow.parquet: truncated or damaged; delete it") from error


@pytest.mark.parametrize(
    "take",
    [
        lambda: bytearray(1 << 60),
        lambda: np.empty(1 << 60, np.uint8),
        lambda: torch.empty(1 << 60, dtype=torch.uint8),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")),
        _read_too_much,
    ],
    ids=["Python", "NumPy", "torch", "GPU", "reader"],
)
def test_a_lack_of_memory_is_told_in_a_line_with_what_to_do(tmp_path, capsys, take):
    with pytest.raises(SystemExit) as ended, job(tmp_path / "step.log"):
        list(take())
    assert ended.value.code == 1
    for text in ((tmp_path / "step.log").read_text(), capsys.readouterr().err):
        first, last = text.splitlines()
        assert "ERROR out of memory (" in first
        assert "`batch`" in first
        assert "damaged" not in first, "what is whole must not be deleted"
        assert last.startswith("the log of this job: ")


def test_job_starts_a_new_log(tmp_path):
    (tmp_path / "step.log").write_text("of an earlier run")
    with job(tmp_path / "step.log"):
        logger.info("now")
    assert "earlier" not in (tmp_path / "step.log").read_text()


def test_input_error_is_its_message_and_where_the_log_is(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, job(tmp_path / "step.log"):
        raise InputError("corpus.txt: truncated; fetch it again")
    assert ended.value.code == 1
    for text in ((tmp_path / "step.log").read_text(), capsys.readouterr().err):
        first, following, last = text.splitlines()
        assert first.endswith("ERROR corpus.txt: truncated; fetch it again")
        assert following == "run Snakemake again once this is solved; finished jobs are kept"
        assert last == f"the log of this job: {tmp_path / 'step.log'}"


def test_on_a_terminal_that_jobs_share_each_line_has_its_jobs_name(tmp_path, capsys):
    log = tmp_path / "train_model" / "base.log"
    with pytest.raises(SystemExit), job(log):
        logger.info("going on from step 3")
        logger.warning("one is late")
        raise InputError("a.parquet: truncated")
    said = capsys.readouterr().err
    assert "INFO train_model base: going on from step 3" in said and "WARNING train_model base: one is late" in said
    assert "ERROR a.parquet: truncated" in said
    assert "INFO going on from step 3" in log.read_text()


def test_progress_of_a_job_has_its_name(tmp_path, capsys):
    with job(tmp_path / "train_model" / "base.log"), progress(2, "tok") as bar:
        bar.update(2)
    with job(tmp_path / "correlate" / "base--child.log"), progress(2, "tok", "moments") as bar:
        bar.update(2)
    with progress(2, "tok", "moments") as bar:
        bar.update(2)
    said = capsys.readouterr().err
    assert "train_model base:   0%" in said and "correlate base--child: moments:   0%" in said
    assert "\rmoments:   0%" in said


@pytest.mark.parametrize(
    "error", [InputError("too small"), ZeroDivisionError("a mistake of ours")], ids=lambda e: type(e).__name__
)
def test_where_the_log_is_can_be_pasted_into_a_shell(tmp_path, monkeypatch, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit), job("my logs/it's a step.log"):
        raise error
    last = (tmp_path / "my logs" / "it's a step.log").read_text().splitlines()[-1]
    assert last.startswith("the log of this job: ")
    pasted = subprocess.run("cat " + last.partition(": ")[2], shell=True, cwd="/", capture_output=True, text=True)
    assert last in pasted.stdout


def test_any_other_error_keeps_its_traceback(tmp_path):
    with pytest.raises(SystemExit) as ended, job(tmp_path / "step.log"):
        raise ZeroDivisionError("a mistake of ours")
    assert ended.value.code == 1
    text = (tmp_path / "step.log").read_text()
    assert "Traceback" in text
    assert "ZeroDivisionError: a mistake of ours" in text
    assert "unexpected error" in text


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_ends_a_job_in_one_line(tmp_path, capsys, number, name):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, job(tmp_path / "step.log"):
        signal.raise_signal(number)
    assert ended.value.code == 130
    assert (said := capsys.readouterr().err) == (tmp_path / "step.log").read_text()
    assert f"ERROR ended by {name}; run Snakemake again, what has finished is kept\n" in said
    assert signal.getsignal(signal.SIGTERM) == before


RUNNING = """
import sys, time
from feature_lineage.jobs.job import job
with job(sys.argv[1]):
    print("running", flush=True)
    time.sleep(60)
"""


def test_a_job_waits_for_its_own_earlier_run_to_end(tmp_path):
    log = tmp_path / "step.log"
    other = subprocess.Popen([sys.executable, "-c", RUNNING, str(log)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "running\n"
        threading.Timer(1.0, other.kill).start()
        with job(log):
            assert other.wait(5) == -signal.SIGKILL
    finally:
        other.kill()
        other.stdout.close()


def test_a_job_that_runs_already_is_not_run_beside_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("feature_lineage.jobs.job.PATIENCE", 0.0)
    log = tmp_path / "step.log"
    other = subprocess.Popen([sys.executable, "-c", RUNNING, str(log)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "running\n"
        log.unlink()  # as Snakemake does before a job
        with pytest.raises(SystemExit), job(log):
            raise AssertionError("two at once")
        assert f"still running, as process {other.pid} on {socket.gethostname()}" in log.read_text()
        with pytest.raises(SystemExit), job(log):
            raise AssertionError("three at once")
        assert log.read_text().count("still running") == 2, "what a running job has written stays"
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with job(log):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["step.log"]


STOPPED = """
import os, sys, time
from feature_lineage.jobs.job import stop_signal
if os.fork():
    time.sleep(60)
with stop_signal() as stop:
    print(stop(), os.getppid(), flush=True)
    while not stop():
        time.sleep(0.01)
print("stopped", flush=True)
"""


def test_the_end_of_whoever_started_a_job_asks_it_to_stop():
    other = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == f"False {other.pid}\n"
        other.kill()
        assert other.stdout.readline() == "stopped\n"
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_a_file_system_without_locks_holds_nothing_up(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with job(tmp_path / "step.log"):
        pass


def test_progress_writes_lines_with_a_rate_to_stderr(capsys):
    with progress(10, "tok", "training base") as bar:
        bar.update(10)
        bar.refresh()
    err = capsys.readouterr().err
    assert "training base" in err
    assert "tok/s" in err


def test_progress_is_quiet_between_lines_when_not_on_a_terminal(capsys):
    with progress(10_000, "tok", "training") as bar:
        for _ in range(10_000):
            bar.update()
        written = capsys.readouterr().err
    assert written.count("training") <= 2, "a log would fill with bars"
