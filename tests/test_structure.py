"""The house keeps its plan: rooms import only what stands above them, and no module or function grows too long."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LONGEST = 400
# Modules that are longer, and why.
LONGER: dict[str, str] = {}
LINES, PARAMETERS = 60, 8  # of a function: from `def` to its end, and without `self` or `cls`
# Functions that have more, and why.
LARGER = {
    "autoencoders/step.py: loss_and_gradients": "the terms of equations (1) to (4), and how the active entries are found",
    "autoencoders/step.py: training_step": "the terms of equations (1) to (4), and how the active entries are found",
}


def modules(project):
    root = project / "src" / "feature_lineage"
    return {
        path.relative_to(root): path
        for path in sorted(root.rglob("*.py"))
        if path.parent != root or path.stem != "__init__"
    }


@pytest.fixture
def contracts(project):
    """What import-linter says of a source folder, by the contracts of pyproject.toml."""

    def asked(source):
        command = [Path(sys.executable).with_name("lint-imports"), "--config", project / "pyproject.toml", "--no-cache"]
        environment = os.environ | {"PYTHONPATH": str(source)}
        done = subprocess.run(command, cwd=source.parent, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return asked


def test_rooms_import_only_what_stands_above_them(project, contracts):
    code, said = contracts(project / "src")
    assert code == 0 and "Contracts: 2 kept, 0 broken." in said, said


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("text/windows.py", "from feature_lineage.models import merge", "A room imports those above it"),
        ("controls/ceiling.py", "from feature_lineage.explanations import verdict", "A room imports those above it"),
        ("flow/fates.py", "import snakemake", "The library knows no Snakemake"),
    ],
)
def test_the_contracts_would_find_one_that_does_not(project, contracts, tmp_path, file, line, broken):
    source = tmp_path / "src"
    shutil.copytree(project / "src", source)
    path = source / "feature_lineage" / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    code, said = contracts(source)
    assert code == 1 and f"{broken}" in said and "BROKEN" in said, said


@pytest.mark.parametrize("word", ["snakemake", "workflow"])
def test_the_library_imports_nothing_of_the_workflow(project, word):
    for path in modules(project).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == word], path


def test_no_module_is_too_long(project):
    lengths = {
        name.as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules(project).items()
    }
    assert {name for name, length in lengths.items() if length > LONGEST} == set(LONGER)


def large(text):
    """Names of the functions in a module's text that are too long or have too many parameters, inner ones and methods too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            parameters = [one.arg for one in every if one is not None and one.arg not in ("self", "cls")]
            if node.end_lineno - node.lineno >= LINES or len(parameters) > PARAMETERS:
                yield node.name


def test_no_function_is_too_long_or_takes_too_much(project):
    found = {
        f"{name.as_posix()}: {function}"
        for name, path in modules(project).items()
        for function in large(path.read_text(encoding="utf-8"))
    }
    assert found == set(LARGER)


@pytest.mark.parametrize(
    ("parameters", "lines", "found"),
    [
        ("a, b, c, d, e, f, g, h", 60, False),
        ("a, b, c, d, e, f, g, h", 61, True),
        ("a, b, c, /, d, e, f, *g, h, i", 2, True),
        ("self, a, b, c, d, *, e, f, g, h", 2, False),
        ("self, a, b, c, d, *, e, f, g, **h", 2, False),
        ("self, a, b, c, d, *, e, f, g, h, **i", 2, True),
    ],
)
def test_a_function_that_is_too_large_is_found(parameters, lines, found):
    inner = [f"    def inner({parameters}):", *["        pass"] * (lines - 1)]
    assert list(large("\n".join(["class Outer:", *inner]))) == ["inner"] * found
