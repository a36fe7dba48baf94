"""The command `feature-lineage`, for what needs no workflow: `feature-lineage COMMAND --help` tells of each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from feature_lineage.errors import InputError

# Each is a module with two functions: `arguments(parser)` adds those of the command, `run(given)` returns what is printed. It is imported
# when it is asked for, as some of them take seconds to load.
COMMANDS = {
    "new": ("feature_lineage.commands.new", "print the `models:` block of a study"),
    "cost": ("feature_lineage.commands.cost", "print what a study will cost, step by step, before anything has run"),
    "convert": ("feature_lineage.commands.convert", "make safetensors of weights in .bin files"),
    "hooks": ("feature_lineage.commands.hooks", "list the hook points of a checkpoint, with their widths and layers"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what it finds goes to standard output, what is wrong with its input to standard error in one sentence.

    Args:
        arguments: of the command line, without the program's name; those of this process if None.

    Returns:
        The exit status: 0, or 1 if an input was refused.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="feature-lineage", description=__doc__.partition(":")[0] + ".")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {}
    for name, (place, told) in COMMANDS.items():
        command = commands.add_parser(name, help=told, description=told[0].upper() + told[1:] + ".")
        if name in given[:1]:
            modules[name] = import_module(place)
            modules[name].arguments(command)
    asked = parser.parse_args(given)
    try:
        print(modules[asked.command].run(asked).rstrip("\n"))
    except InputError as error:
        print(f"feature-lineage: {error}", file=sys.stderr)
        return 1
    return 0
