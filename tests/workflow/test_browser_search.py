"""Where the browser that draws images is looked for, and what reports of jobs on other machines show."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import tiny_study

# An executor that runs each job as on a machine without a browser.
EXECUTOR = """
import os
import subprocess

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True, implies_no_shared_fs=False, job_deploy_sources=False, pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(RemoteExecutor):
    def run_job(self, job):
        command = self.format_job_exec(job)
        done = subprocess.run(command, shell=True, env=os.environ | {"BROWSER_PATH": "none"})
        info = SubmittedJobInfo(job, aux={"code": done.returncode})
        self.report_job_submission(info)

    async def check_active_jobs(self, active_jobs):
        for info in active_jobs:
            if info.aux["code"]:
                self.report_job_error(info)
            else:
                self.report_job_success(info)
        return
        yield

    def cancel_jobs(self, active_jobs):
        pass
"""
# In place of the library that looks for browsers: it takes note of who asks.
SEARCH = """
import os

class Chromium:
    @staticmethod
    def find_browser(skip_local):
        with open(os.environ["ASKED"], "a") as file:
            file.write("asked\\n")
"""

# Python runs it at its start.
SEEN = """
import os

with open(os.environ["ASKED"], "a") as file:
    file.write(os.environ["PYTHONPATH"] + "\\n")
"""


@pytest.fixture
def outside(tmp_path, monkeypatch) -> Path:
    """A folder on the user's PYTHONPATH, and a file in which every search for a browser is noted."""
    folder = tmp_path / "outside"
    (folder / "choreographer" / "browsers").mkdir(parents=True)
    for name in ("", "browsers/"):
        (folder / "choreographer" / name / "__init__.py").write_text("")
    (folder / "choreographer" / "browsers" / "chromium.py").write_text(SEARCH)
    (folder / "snakemake_executor_plugin_elsewhere").mkdir()
    (folder / "snakemake_executor_plugin_elsewhere" / "__init__.py").write_text(EXECUTOR)
    plain = {key: value for key, value in tiny_study.environment().items() if key != "BROWSER_PATH"}
    mine = plain | {"PYTHONPATH": str(folder), "ASKED": str(tmp_path / "asked")}
    monkeypatch.setattr(tiny_study, "environment", lambda: mine)
    return folder


def asked(tmp_path):
    path = tmp_path / "asked"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_no_browser_is_looked_for_where_nothing_needs_one(copy, outside, tmp_path):
    """Neither where the rules are read nor by the jobs of other steps; once where figures are asked for."""
    (copy.results / "flows" / "summary.json").unlink()
    run = copy.snakemake("-c1", "results/tiny/flows/summary.json")
    assert run.code == 0, run
    assert "No browser" not in run.output
    assert asked(tmp_path) == 0
    copy.plan("figures")
    assert asked(tmp_path) == 1


def test_a_dry_run_looks_for_a_browser_where_figures_are_planned_alone(bare, outside, tmp_path):
    place = bare.copy(tmp_path / "place")
    place.plan("results/tiny/flows/summary.json")
    assert asked(tmp_path) == 0
    place.plan("figures")
    assert asked(tmp_path) == 1


def images(copy):
    """An image of each figure, as if it had just been drawn."""
    drawn = copy.results / "figures"
    for table in drawn.glob("*.csv"):
        for kind in ("svg", "png"):
            table.with_name(f"{table.stem}.{kind}").write_text("an image")
    return {path.name for path in drawn.iterdir() if path.suffix in (".svg", ".png")}


def in_report(copy):
    return {path.name for path in (copy.results / "report" / "figures").iterdir() if path.suffix in (".svg", ".png")}


def test_a_report_written_on_a_machine_without_a_browser_has_its_images(copy, outside, monkeypatch):
    """The images are drawn where Snakemake runs; the job that writes the report reads the same rules and sees no browser."""
    drawn = images(copy)
    assert len(drawn) == 2 * 7
    mine = tiny_study.environment() | {"BROWSER_PATH": "/bin/true"}
    monkeypatch.setattr(tiny_study, "environment", lambda: mine)
    assert set(copy.plan()) == {"write_report"}
    run = copy.snakemake("--executor", "elsewhere", "--jobs", "1", "--shared-fs-usage", "persistence", "input-output",
                         "software-deployment", "sources", "source-cache")  # fmt: skip
    assert run.code == 0, run
    assert in_report(copy) == drawn
    assert copy.plan() == {}


def test_images_of_earlier_figures_are_not_shown(copy, outside):
    """Drawn once, then the figures changed where there was no browser."""
    images(copy)
    past = time.time() - 1e6
    for path in (copy.results / "figures").glob("c*.svg"):
        os.utime(path, (past, past))
    (copy.results / "report" / "index.html").unlink()
    run = copy.snakemake("-c1", "results/tiny/report/index.html")
    assert run.code == 0, run
    assert "curves.svg" not in in_report(copy)


def test_jobs_have_this_checkouts_library_first_and_then_the_users_pythonpath(copy, outside, tmp_path):
    (outside / "sitecustomize.py").write_text(SEEN)
    (copy.results / "flows" / "summary.json").unlink()
    run = copy.snakemake("-c1", "results/tiny/flows/summary.json")
    assert run.code == 0, run
    first, *others = (tmp_path / "asked").read_text().splitlines()
    assert first == str(outside), "as the user has it"
    assert set(others) == {f"{copy.root / 'src'}:{outside}"}, "as all that Snakemake starts has it, ours once"
