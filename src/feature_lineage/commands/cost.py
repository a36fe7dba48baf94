"""`feature-lineage cost`: what a study will cost, before anything has run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from feature_lineage.errors import InputError
from feature_lineage.jobs.cost import CORPUS, Cost, calibration, cost, measured, table
from feature_lineage.jobs.job_list import DERIVED
from feature_lineage.jobs.resources import ON_GPU
from feature_lineage.study.loading import each_key_once, load_study
from feature_lineage.study.local_inputs import named_files
from feature_lineage.study.study import Study
from feature_lineage.study.texts import FilesCorpus, PackageCorpus
from feature_lineage.study.types import StudyError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument(
        "config", metavar="CONFIG", nargs="+", help="YAML files of a study, each laid over those before it"
    )
    parser.add_argument("--gpu", action="store_true", help="hours with a GPU for the steps that can use one")
    parser.add_argument(
        "--benchmarks",
        metavar="DIR",
        help="measured seconds that scale the prediction (default: results/<study>/benchmarks, if it is there)",
    )
    parser.add_argument(
        "--timed",
        metavar="CONFIG",
        nargs="+",
        help="the study that the benchmark files are of, if it is another one",
    )
    parser.add_argument(
        "--corpus-tokens",
        metavar="N",
        type=float,
        default=CORPUS,
        help="tokens of a corpus whose size is not known (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(given: argparse.Namespace) -> str:
    """The table, or the same as JSON."""
    if not 0 < given.corpus_tokens < 1e15:
        raise InputError(f"--corpus-tokens: found {given.corpus_tokens:g}; give a number between 0 and 1e15")
    study = study_of(given.config)
    folder = Path(given.benchmarks or Path("results", study.study, "benchmarks"))
    if given.benchmarks and not folder.is_dir():
        raise InputError(f"--benchmarks: {folder} is no folder; name one with benchmark files, or leave it out")
    factors: dict[str, float] = {}
    if folder.is_dir():
        timed = study_of(given.timed) if given.timed else study
        predicted = cost(timed, corpus_bytes(timed), hub_tokens=given.corpus_tokens)
        factors = calibration(predicted, measured(folder))
    if given.gpu:  # what was measured may be of a CPU
        factors = {step: factor for step, factor in factors.items() if DERIVED.get(step, step) not in ON_GPU}
    found = cost(study, corpus_bytes(study), gpu=given.gpu, factors=factors, hub_tokens=given.corpus_tokens)
    return as_json(found) if given.json else table(found)


def study_of(files: list[str]) -> Study:
    """The study of some files, each laid over those before it.

    Raises:
        InputError: it is refused, with the workflow's message.
    """
    try:
        each_key_once(files)
        return load_study(laid_over(files))
    except StudyError as error:
        raise InputError(str(error)) from None


def laid_over(files: list[str]) -> dict[str, Any]:
    """The configuration that Snakemake makes of several files: blocks are merged key by key, all else is replaced.

    Raises:
        InputError: a file is missing, or no YAML.
    """
    found: dict[str, Any] = {}
    for file in files:
        try:
            config = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}); name a study's YAML file") from None
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(f"{file}: no YAML ({' '.join(str(error).split())}); mend it") from None
        if not isinstance(config, dict):
            raise InputError(f"{file}: found no keys; a study's YAML file is a block of them")
        _lay(found, config)
    return found


def _lay(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay(below[key], value)
        else:
            below[key] = value


def corpus_bytes(study: Study) -> dict[str, float]:
    """Bytes of the corpora that are read from files on this machine; of compressed files, as they are."""
    found = {}
    for name, block in study.corpora.items():
        try:
            if isinstance(block, FilesCorpus):
                found[name] = float(sum(Path(path).stat().st_size for path in named_files(block.files)))
            elif isinstance(block, PackageCorpus):
                from feature_lineage.text.sources import package_files

                files, _ = package_files(block.package, block.include, block.exclude)
                found[name] = float(sum(path.stat().st_size for _, path in files))
        except (OSError, InputError):  # not here: as large as any of unknown size
            continue
    return {name: size for name, size in found.items() if size}


def as_json(found: Cost) -> str:
    """The rows with numbers of full length; bytes, and hours."""
    rows = [row._asdict() for row in [*found.rows, found.total]]
    return json.dumps({"steps": rows[:-1], "total": rows[-1], "assumed": found.assumptions}, indent=2)
