"""What the profiles and rules ask a cluster for; no SLURM is needed here."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest
import yaml
from tiny_study import CHECKOUT, environment

from feature_lineage.jobs.resources import ON_GPU, SIZED, request
from feature_lineage.study.loading import load_study

LIBRARY = CHECKOUT / "src" / "feature_lineage"
PROFILE = yaml.safe_load((CHECKOUT / "profiles" / "slurm" / "config.yaml").read_text())
TEXT = "".join(
    p.read_text() for p in [CHECKOUT / "Snakefile", *sorted((CHECKOUT / "workflow" / "rules").glob("*.smk"))]
)
RULES = set(re.findall(r"^ *rule (\w+):", TEXT, re.MULTILINE))
MADE_FROM = {name: base for base, name in re.findall(r"^use rule (\w+) as (\w+) with:", TEXT, re.MULTILINE)}
BODIES = {name: body for _, name, body in re.findall(r"^( *)rule (\w+):\n((?:(?: {4,}.*)?\n)+)", TEXT, re.MULTILINE)}
# Those that only name their inputs are local to Snakemake anyway.
LOCAL = {name for name, body in BODIES.items() if "localrule: True\n" in body or "output:\n" not in body}
# Submitted with what the profile asks for by default: they read and write tables with a row a pair or a feature, or one sample of tokens.
SMALL = {
    "import_tokenizer",
    "sample_windows",
    "measure_ceiling",
    "summarise_controls",
    "compare_baseline",
}


def test_every_rule_is_local_or_sized_or_small():
    kinds = {"local": LOCAL, "sized": set(SIZED), "small": SMALL}
    for name in RULES:
        assert sum(name in kind for kind in kinds.values()) == 1, name
    assert set().union(*kinds.values()) == RULES


@pytest.mark.parametrize("name", sorted(SIZED))
def test_a_sized_rule_asks_for_its_own_size(name):
    body = re.search(rf"^( *)rule {name}:\n((?:(?: {{4,}}.*)?\n)+)", TEXT, re.MULTILINE)[2]
    assert "resources:\n" in body and f'**needs("{name}"),\n' in body


def test_a_rule_made_from_another_asks_for_what_that_one_asks():
    for name in MADE_FROM:
        body = re.search(rf"^use rule \w+ as {name} with:\n((?:(?: {{4,}}.*)?\n)+)", TEXT, re.MULTILINE)[1]
        assert "resources:" not in body


# --- GPUs --------------------------------------------------------------------------------------------------


def reaches_a_device():
    """(module, function) of all functions of the library that ask for the device, or call one that does."""
    used = {}  # (module, function) -> the library's functions that it names
    for path in LIBRARY.rglob("*.py"):
        tree = ast.parse(path.read_text())
        module = ".".join(path.relative_to(LIBRARY).with_suffix("").parts)
        known = {node.name: (module, node.name) for node in tree.body if hasattr(node, "name")} | imported(tree)
        for node in tree.body:
            if hasattr(node, "name"):
                names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
                used[module, node.name] = {known[name] for name in names & known.keys()}
    found = {("devices", "device")}
    assert found <= used.keys()
    while more := {one for one, names in used.items() if names & found} - found:
        found |= more
    return found


def imported(tree):
    return {
        alias.asname or alias.name: (node.module.removeprefix("feature_lineage."), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("feature_lineage.")
        for alias in node.names
    }


def test_rules_whose_script_uses_a_device_ask_for_a_gpu_and_no_others():
    device = reaches_a_device()
    using = {
        path.stem
        for path in (CHECKOUT / "workflow" / "scripts").glob("*.py")
        if set(imported(ast.parse(path.read_text())).values()) & device
    }
    assert len(using) >= 8
    assert using == ON_GPU
    every = using | {name for name, base in MADE_FROM.items() if base in using}
    assert {name for name, asked in PROFILE["set-resources"].items() if asked.get("gpu")} == every


def test_account_partitions_and_kind_of_gpu_stand_in_one_place_each():
    text = (CHECKOUT / "profiles" / "slurm" / "config.yaml").read_text()
    lines = [line.partition("#")[0] for line in text.splitlines()]
    for key, times in (("slurm_account", 1), ("slurm_partition", 2), ("gpu:", 1)):
        assert sum(key in line for line in lines) == times, key
    without = yaml.safe_load(re.sub(r"&gpu \{.*\}", "&gpu {gpu: 0}", text))
    assert all(asked == {"gpu": 0} for asked in without["set-resources"].values())


# --- what Snakemake makes of it ----------------------------------------------------------------------------


def planned(place, *arguments, profile="profiles/slurm"):
    """For each rule of a dry run, what its jobs ask for."""
    command = place.command("-n", "--profile", profile, *arguments)
    done = subprocess.run(command, cwd=place.root, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = {}
    for name, resources in re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", done.stdout, re.MULTILINE):
        asked.setdefault(name, []).append(dict(part.split("=", 1) for part in resources.split(", ")))
    return asked


@pytest.fixture(scope="module")
def place(bare, tmp_path_factory):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the SLURM plugin is not installed")
    place = bare.copy(tmp_path_factory.mktemp("profiles") / "place")
    del place.config["controls"]
    place.config["autoencoder"]["seeds"] = [0, 1]
    return place


@pytest.fixture(scope="module")
def jobs(place):
    return planned(place)


def test_jobs_ask_for_their_size_their_partition_and_a_gpu_if_they_use_one(place, jobs):
    study = load_study(place.config)
    gpu_rules = {name for name, asked in PROFILE["set-resources"].items() if asked}
    assert {"train_model", "train_autoencoder", "transfer_autoencoder", "correlate", "measure_ceiling"} <= jobs.keys()
    for name, asked in jobs.items():
        size = request(study, MADE_FROM.get(name, name)) if MADE_FROM.get(name, name) in SIZED else (2000, 30)
        for job in asked:
            assert (int(job["mem_mb"]), int(job["runtime"])) == size, name
            assert job["slurm_partition"] == ("gpu" if name in gpu_rules else "cpu"), name
            assert job.get("gpu") == ("1" if name in gpu_rules else None), name
            assert job["slurm_account"] == "default"


@pytest.mark.parametrize("driver", ["/dev/null", "/dev/no such file"], ids=["a GPU", "none"])
def test_on_one_machine_jobs_that_compute_on_its_gpu_run_one_at_a_time(bare, tmp_path, driver):
    """Snakemake grants one `gpu` at a time; without a GPU nobody asks, and as many jobs run as there are cores."""
    place = bare.copy(tmp_path / "place")
    module = place.root / "src" / "feature_lineage" / "devices.py"
    module.write_text(re.sub(r"^DRIVERS = .*", f'DRIVERS = ("{driver}",)', module.read_text(), flags=re.MULTILINE))
    asked = planned(place, profile="profiles/local")
    gpu_rules = {name for name, asked in PROFILE["set-resources"].items() if asked}
    assert {"train_model", "train_autoencoder", "collect_features"} <= asked.keys()
    for name, jobs in asked.items():
        expected = None if name not in gpu_rules else "1" if driver == "/dev/null" else "0"
        assert {job.get("gpu") for job in jobs} == {expected}, name
    granted = yaml.safe_load((CHECKOUT / "profiles" / "default" / "config.yaml").read_text())["resources"]
    assert "gpu=1" in granted


def test_a_second_attempt_asks_for_twice_as_much(place, jobs):
    second = planned(place, "--attempt", "2")
    assert jobs.keys() == second.keys()
    for name, asked in jobs.items():
        for once, again in zip(asked, second[name], strict=True):
            assert int(again["mem_mb"]) == 2 * int(once["mem_mb"]), name
            assert int(again["runtime"]) == 2 * int(once["runtime"]), name
