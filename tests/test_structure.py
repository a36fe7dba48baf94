"""The house keeps its plan: rooms import only what stands above them, and no module grows too long."""

import ast

import pytest

# From what everything may use down to what uses everything. A room imports from those above it, and never from below.
LAYERS = [
    {"errors", "printable", "streams", "places"},
    {"progress"},
    {"devices", "study", "store"},
    {"jobs", "text"},
    {"models"},
    {"autoencoders"},
    {"features"},
    {"flow"},
    {"meaning"},
    {"controls", "explanations"},
    {"report"},
]
LONGEST = 400
# Modules that are longer, and why.
LONGER = {
    "flow/correlation.py": "the plan of a sum over pairs and its loops share every intermediate",
    "jobs/resources.py": "a formula for each step, to give way to shorter ones",
    "meaning/cases.py": "to be parted into scores and tracking",
}


def modules(project):
    root = project / "src" / "feature_lineage"
    return {
        path.relative_to(root): path
        for path in sorted(root.rglob("*.py"))
        if path.parent != root or path.stem != "__init__"
    }


def imported(path):
    """First parts, within the package, of what a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names = (
                [node.module] if node.module != "feature_lineage" else [f"feature_lineage.{a.name}" for a in node.names]
            )
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("feature_lineage."))


def wrong(rooms):
    """(room, imported room) pairs that run against the layers, or from one room to another in the same layer."""
    floor = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    return {(a, b) for a, b in rooms if a != b and floor[b] >= floor[a]}


def test_rooms_import_only_what_stands_above_them(project):
    pairs = {
        (name.parts[0].removesuffix(".py"), room) for name, path in modules(project).items() for room in imported(path)
    }
    assert len(pairs) > 50
    assert wrong(pairs) == set()
    assert wrong({("text", "models"), ("study", "store"), ("flow", "store"), ("flow", "flow")}) == {
        ("text", "models"),
        ("study", "store"),
    }, "and this would find one"


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
