"""Jobs in a conda environment made from the lock. A stand-in for conda makes it, out of this one: no channel is reached."""

from __future__ import annotations

import sys
import sysconfig

CONDA = """#!/bin/sh
case "$*" in
  "info --json") echo '{{"conda_prefix": "{prefix}", "platform": "linux-64"}}' ;;
  "--version") echo "conda 25.1.0" ;;
  config*) echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
  "env create"*)
    for word; do [ "$last" = --prefix ] && made=$word; last=$word; done
    "{python}" -m venv --without-pip "$made" && echo "{packages}" > "$made/lib/python{version}/site-packages/locked.pth" ;;
  "clean "*) ;;
  *) exit 1 ;;
esac
"""
REPORTING = "import sys\n\nimport feature_lineage\n\nprint(sys.prefix, 'runs', feature_lineage.__file__)\n\n\ndef main"
ACTIVATE = 'export PATH="$1/bin:$PATH" CONDA_PREFIX="$1"\n'


def test_jobs_in_a_conda_environment_find_the_library_of_this_checkout(bare, tmp_path, monkeypatch):
    place = bare.copy(tmp_path / "place")
    folder = tmp_path / "conda" / "bin"
    folder.mkdir(parents=True)
    conda = CONDA.format(
        prefix=folder.parent,
        python=sys.executable,
        packages=sysconfig.get_path("purelib"),
        version=sysconfig.get_python_version(),
    )
    (folder / "conda").write_text(conda)
    (folder / "conda").chmod(0o755)
    (folder / "activate").write_text(ACTIVATE)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    place.edit("workflow/scripts/build_corpus.py", "def main", REPORTING)

    run = place.snakemake("results/tiny/corpora/code/train.parquet", "-c1", "--software-deployment-method", "conda")
    assert run.code == 0, run
    (made,) = (place.root / ".snakemake" / "conda").glob("*.yaml")
    assert made.read_text() == (place.root / "envs" / "environment.yaml").read_text()
    library = place.root / "src" / "feature_lineage" / "__init__.py"
    after = made.with_suffix(".post-deploy.sh")
    assert after.read_text() == (place.root / "envs" / "environment.post-deploy.sh").read_text()
    assert "Running post-deploy script" in run.output, run
    assert f"{made.with_suffix('')} runs {library}" in run.output.splitlines(), run
