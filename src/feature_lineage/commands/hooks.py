"""`feature-lineage hooks`: what a study's `autoencoder.hook` can be for a checkpoint."""

from __future__ import annotations

import argparse

from feature_lineage.models.hook_table import hook_table
from feature_lineage.places import on_disk


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument("model", metavar="MODEL", help="folder of a checkpoint, or its name on the Hugging Face hub")
    parser.add_argument("--revision", help="commit, tag or branch on the hub")


def run(given: argparse.Namespace) -> str:
    """The table: a row a hook point, `*` for the layer."""
    rows = [("hook point", "width", "layers")]
    for point in hook_table(on_disk(given.model), given.revision):
        rows.append((point.name, f"{point.width:,}", layers(point.layers)))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {width:>{widths[1]}}  {where}".rstrip() for name, width, where in rows)


def layers(numbers: tuple[int, ...]) -> str:
    """Numbers of layers as ranges: `0-4`, `0-1, 3`; nothing of a point outside of the layers."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)
