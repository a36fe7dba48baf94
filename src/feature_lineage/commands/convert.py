"""`feature-lineage convert`: weights in `.bin` files made into safetensors."""

from __future__ import annotations

import argparse

from feature_lineage.models.convert import convert
from feature_lineage.places import on_disk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument("source", metavar="DIR", help="folder of a checkpoint or an adapter with weights in .bin files")
    parser.add_argument("out", metavar="OUT", help="folder that is made, with the weights in safetensors")


def run(given: argparse.Namespace) -> str:
    """The files that were written."""
    return "\n".join(map(str, convert(on_disk(given.source), on_disk(given.out))))
