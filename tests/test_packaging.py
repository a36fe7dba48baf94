"""The package as `pip install .` has it: what it says that it needs, what is in it, and that the workflow runs on it."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "src" / "feature_lineage"
DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
UNSEEN = {"accelerate"}  # of which transformers' Trainer makes use


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def python_of(path):
    """The Python of a file: of Snakemake's rules the import statements, wherever they stand."""
    text = path.read_text()
    if path.suffix == ".py":
        return ast.parse(text)
    return ast.parse("\n".join(re.findall(r"^ *((?:import|from [\w.]+ import) [\w., ]+)$", text, re.MULTILINE)))


def imported():
    """Top-level modules that the library and the workflow import, at their head or where they are used."""
    files = [PROJECT / "Snakefile", *PACKAGE.rglob("*.py"), *(PROJECT / "workflow").rglob("*.*")]
    found = set()
    for path in files:
        if path.suffix in ("", ".py", ".smk"):
            for node in ast.walk(python_of(path)):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"feature_lineage"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    """choreographer, kaleido and httpx were not: a clean environment had them only as others brought them along."""
    distributions = packages_distributions()
    needed = {normal(distributions[module][0]) for module in imported()}
    declared = {normal(re.split(r"[<>=!~ \[]", line)[0]) for line in DECLARED}
    assert needed == declared - UNSEEN
    assert declared >= UNSEEN


def test_the_oldest_torch_that_the_code_accepts_is_the_one_declared():
    assert "torch>=2.11" in DECLARED


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which the wheel is installed, and nothing else."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(PACKAGE, source / "src" / "feature_lineage", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", folder / "installed", wheel], check=True)
    return folder / "installed"


def test_the_wheel_has_every_file_of_the_package(installed):
    def files(root):
        return {
            path.relative_to(root) for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        }

    assert files(installed / "feature_lineage") == files(PACKAGE)


IMPORT_ALL = """
import importlib, pkgutil, sys
import feature_lineage
assert feature_lineage.__file__.startswith(sys.argv[1]), feature_lineage.__file__
for module in pkgutil.walk_packages(feature_lineage.__path__, "feature_lineage."):
    importlib.import_module(module.name)
    print(module.name)
"""


def test_every_module_of_the_installed_package_is_imported(installed, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, installed], cwd=tmp_path, env={"PYTHONPATH": str(installed)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len([*PACKAGE.rglob("*.py")]) - 1


def test_the_workflow_is_read_with_the_installed_package(installed, tmp_path):
    """A dry run of the demo with no source code beside the rules."""
    for part in ("workflow", "config", "envs", "profiles"):
        shutil.copytree(PROJECT / part, tmp_path / part)
    shutil.copy(PROJECT / "Snakefile", tmp_path)
    done = subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "-n", "--quiet", "rules"], cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "BROWSER_PATH": "none"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
