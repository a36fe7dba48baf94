"""`feature-lineage new`: the `models:` block of a study, from what has been merged already."""

from __future__ import annotations

import argparse

from feature_lineage.study.mergekit import models_from_mergekit


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument(
        "--from-mergekit",
        metavar="DIR",
        required=True,
        help="folder of a model that mergekit has made, with its mergekit_config.yml",
    )
    parser.add_argument(
        "--corpus",
        metavar="NAME",
        default="text",
        help="corpus of the study that roots stand for (default: %(default)s)",
    )


def run(given: argparse.Namespace) -> str:
    """The block, as YAML."""
    return models_from_mergekit(given.from_mergekit, given.corpus)
