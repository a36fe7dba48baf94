"""The lock, the conda environment, the package's own metadata and the profiles say the same."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def pins(path):
    lines = [line.strip() for line in path.read_text().splitlines()]
    return {
        re.split(r"==", line)[0].lower().replace("_", "-"): line for line in lines if line and not line.startswith("#")
    }


def test_the_conda_environment_has_the_locked_versions():
    environment = yaml.safe_load((ROOT / "envs" / "environment.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert set(pip) == set(pins(ROOT / "envs" / "requirements.txt").values())


def test_the_conda_environment_gets_the_demos_texts_without_what_they_depend_on():
    done = (ROOT / "envs" / "environment.post-deploy.sh").read_text()
    (command,) = (line.split() for line in done.splitlines() if not line.startswith("#"))
    assert command[:5] == ["python", "-m", "pip", "install", "--no-deps"], "as in the Makefile"
    assert command[5:] == list(pins(ROOT / "envs" / "demo.txt").values())


def test_every_locked_version_is_exact_and_from_no_particular_host():
    for name in ("requirements.txt", "demo.txt", "peers.txt", "peers.alone.txt"):
        for line in pins(ROOT / "envs" / name).values():
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), f"{name}: {line}"


def test_what_the_package_needs_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = pins(ROOT / "envs" / "requirements.txt")
    for requirement in project["dependencies"]:
        name, least = re.split(r">=", requirement)
        found = locked[name.lower().replace("_", "-")].split("==")[1]
        numbers = [[int(part) for part in version.split(".")] for version in (least, found)]
        assert numbers[0] <= numbers[1], requirement


def test_this_environment_is_the_locked_one():
    done = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    installed = {line.split("+")[0] for line in done.stdout.splitlines() if "==" in line}
    missing = set(pins(ROOT / "envs" / "requirements.txt").values()) - installed
    assert not missing, "run `make environment` anew"


def test_the_cluster_profile_names_rules_that_exist():
    rules = set()
    for path in [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]:
        rules |= set(re.findall(r"^\s*(?:rule|use rule \w+ as) (\w+)(?: with)?:", path.read_text(), re.M))
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    assert set(profile["set-resources"]) <= rules


def test_the_container_installs_the_lock_and_names_no_version_of_its_own():
    text = (ROOT / "envs" / "Containerfile").read_text()
    steps = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    (base,) = (step for step in steps if step.startswith("FROM"))
    python = next(pin for pin in _dependencies() if str(pin).startswith("python="))
    assert re.fullmatch(rf"FROM docker\.io/library/python:{python.split('=')[1]}\.\d+-slim-bookworm", base)
    (copied,) = (step.split()[1:-1] for step in steps if step.startswith("COPY"))
    assert copied == ["requirements.txt", "demo.txt"]
    assert all((ROOT / "envs" / name).is_file() for name in copied)
    installed = [line for step in steps for line in step.split("&&") if "pip install" in line]
    assert [re.search(r"-r \S*/(\S+)", line)[1] for line in installed] == copied
    assert ["--no-deps" in line for line in installed] == [False, True], "as in the Makefile"
    assert "==" not in text
    assert steps.index("USER lineage") > max(i for i, step in enumerate(steps) if step.startswith("RUN"))


def _dependencies():
    return yaml.safe_load((ROOT / "envs" / "environment.yaml").read_text())["dependencies"]
