"""The benchmarks leave nothing behind that git does not know."""

import importlib.util
import shutil
import subprocess

import plotly.graph_objects as go
import pytest


@pytest.mark.parametrize("name", ["correlation-growth", "planted-truth", "new"])
def test_without_a_browser_a_plot_leaves_no_untracked_file(project, tmp_path, monkeypatch, name):
    """In a copy of the checkout, by git's own rules of what to ignore; a folder that is named gets the page."""
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(project / "benchmarks" / "images.py", tmp_path / "benchmarks")
    shutil.copy(project / ".gitignore", tmp_path)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    spec = importlib.util.spec_from_file_location("images", tmp_path / "benchmarks" / "images.py")
    images = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(images)

    def fails(*arguments, **options):
        raise RuntimeError("no browser")

    monkeypatch.setattr(go.Figure, "write_image", fails)
    said = images.write_image(go.Figure(), name)
    left = subprocess.run(
        ["git", "status", "--short", "-uall"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert [line for line in left.stdout.splitlines() if not line.startswith("A ")] == []
    assert said.endswith(f"{name}.svg needs a browser: no browser")
    images.write_image(go.Figure(), name, tmp_path / "mine")
    assert (tmp_path / "mine" / f"{name}.html").is_file()
