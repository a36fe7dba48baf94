"""One name for one step: a rule, its script, its log and benchmark, its code parameter, and the library function that does the work."""

import ast
import re

RULE = re.compile(r"^ *(?:use rule (\w+) as (\w+) with|rule (\w+)):$", re.MULTILINE)


def rules(project):
    """(name, rule whose script it runs, text) of each rule with a script."""
    for path in sorted((project / "workflow" / "rules").glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        found = list(RULE.finditer(text))
        for one, following in zip(found, [*found[1:], None], strict=True) if found else ():
            base, derived, own = one.groups()
            yield derived or own, base or own, text[one.end() : following.start() if following else None]


def scripts(project):
    return {path.stem: path for path in (project / "workflow" / "scripts").glob("*.py")}


def called(path):
    """Names of the library's functions that a script imports and calls, with the module if it imports that."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call)}
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("feature_lineage")
        for alias in node.names
    }
    modules = {
        f"{node.module}.{alias.name}".replace(".", "/")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("feature_lineage")
        for alias in node.names
    }
    return calls, imported, modules


def test_a_rule_its_script_its_log_and_its_benchmark_share_a_name(project):
    found = list(rules(project))
    assert len(found) > 45 and len({name for name, _, _ in found}) == len(found)
    for name, base, text in found:
        for place in ("logs", "benchmarks"):
            assert re.search(rf'"<{place}>/{name}[./]', text), f"{name}: {place}"
        if name == base:
            assert f'"../scripts/{name}.py"' in text, name
            assert f'code=code("{name}"),' in text, name
            assert set(re.findall(r'needs\("(\w+)"\)', text)) <= {name}, name


def test_each_script_is_of_one_rule(project):
    assert {base for _, base, _ in rules(project)} == set(scripts(project))


def test_a_script_calls_the_function_of_its_name(project):
    for name, path in scripts(project).items():
        calls, imported, modules = called(path)
        there = name in imported or any(
            f"def {name}(" in (project / "src" / f"{module}.py").read_text(encoding="utf-8")
            for module in modules
            if (project / "src" / f"{module}.py").exists()
        )
        assert name in calls and there, f"workflow/scripts/{name}.py calls no {name} of the library"


def test_rules_lie_in_the_files_of_the_librarys_rooms(project):
    rooms = {path.parent.name for path in (project / "src" / "feature_lineage").glob("*/__init__.py")}
    assert {path.stem for path in (project / "workflow" / "rules").glob("*.smk")} <= rooms | {"common"}


def test_no_function_is_called_draw(project):
    """Pictures are plotted and samples sampled: `draw` meant both."""
    for path in (project / "src").rglob("*.py"):
        names = [
            n.name for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)
        ]
        assert not [name for name in names if re.match("_?draw", name)], path
