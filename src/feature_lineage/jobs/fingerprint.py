"""A hash of the code that can change what a script computes: a step reruns when that code changes, and only then.

Snakemake sees a script's own text, not the library that it imports. The hash covers the script and the definitions of this package
that it reaches: a function, class or constant that it names, all that those name in turn, and what their modules run when they are
imported. It leaves out what can change no number: comments, docstrings, layout, annotations of functions, log and error messages,
progress bars, job control, and how replies of a language model are fetched (`NOT_COUNTED`).

What stands beside a module that is reached, under its name as `.html`, `.css` or `.js`, or in `<module>_files/`, counts byte for byte. The same code has the same hash under every
version of Python that reads it, in every process and wherever it lies.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
# Modules by their names within the package. No number depends on what is said or on how a job is run, so what these are given is left
# out too; what the others are given counts.
SAID = ("errors", "progress", "jobs", "uncollected")
NOT_COUNTED = (*SAID, "explanations.transport")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = ast.Import | ast.ImportFrom


class Reached(NamedTuple):
    """A definition of a module; with the name None, what the module runs when it is imported."""

    path: Path
    name: str | None


def fingerprint(script: str | Path) -> str:
    """Hex digest of the code that `script` reaches, 16 characters.

    Raises:
        SyntaxError: a file on the way does not parse; the message names it.
    """
    script = Path(script).resolve()
    digest = hashlib.sha256()
    found = reached(script)
    where = {path: "" if path == script else path.relative_to(PACKAGE).as_posix() for path, _ in found}
    for path, name in sorted(found, key=lambda one: (where[one.path], one.name or "")):
        digest.update(f"{where[path] or script.name} {name} {_code(Reached(path, name))}\n".encode())
    for path in sorted(where, key=where.__getitem__):
        beside = [path.with_suffix(suffix) for suffix in (".html", ".css", ".js")]
        for text in (*beside, *sorted(path.parent.glob(f"{path.stem}_files/*"))):
            if text.is_file():
                digest.update(text.read_bytes())
    return digest.hexdigest()[:16]


def reached(script: Path) -> set[Reached]:
    """What a script reaches: all of itself, and of the package's modules the definitions that it needs."""
    todo = [Reached(script, None), *(Reached(script, name) for name in _module(script).definitions)]
    found: set[Reached] = set()
    while todo:
        if (one := todo.pop()) in found:
            continue
        found.add(one)
        todo += _next(one)
    return found


@cache  # one for all scripts: most reach the same definitions
def _next(one: Reached) -> tuple[Reached, ...]:
    """What a definition needs directly."""
    module = _module(one.path)
    found = {Reached(one.path, None): None}
    if one.name is None:
        found |= dict.fromkeys(start for name in module.imported for start in _initialised(name))
    for node in _nodes(one):
        found |= dict.fromkeys(_needs(module, node))
    return tuple(found)


def _nodes(one: Reached) -> list[ast.stmt]:
    module = _module(one.path)
    return module.rest if one.name is None else module.definitions[one.name]


@cache
def _code(one: Reached) -> str:
    """The code of a definition as text."""
    return _text(_nodes(one))


class _Module:
    """A file of code: its definitions by name, what else it runs, and what it imports, all without what cannot change a number."""

    def __init__(self, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        self.path = path
        self.imports: dict[str, str] = {}  # full name by the name here; imports inside functions too
        self.star: list[str] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = _absolute(path, node)
                for alias in node.names:
                    if alias.name == "*":
                        self.star.append(module)
                    else:
                        self.imports[alias.asname or alias.name] = f"{module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.split(".")[0]
                    self.imports[alias.asname or first] = alias.name if alias.asname else first
        self.imported = [name for node in tree.body if isinstance(node, Import) for name in _package_names(node, path)]
        silent = {name for name, full in self.imports.items() if _within(full, SAID) or full == "warnings"}
        tree = _WithoutWords(silent).visit(tree)
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.rest: list[ast.stmt] = []
        for node in tree.body:
            if isinstance(node, Import):
                for alias in node.names:  # of other packages, each name is a definition; those of this one are followed
                    name = alias.asname or alias.name.split(".")[0]
                    if name in self.imports and _counts(self.imports[name]) is None:
                        self.definitions.setdefault(name, []).append(_alone(node, alias))
            elif path.is_relative_to(PACKAGE) and isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
                continue  # `if __name__ == "__main__"` does not run on import
            elif names := _bound(node):
                for name in names:
                    self.definitions.setdefault(name, []).append(node)
            else:
                self.rest.append(node)


@cache
def _module(path: Path) -> _Module:
    return _Module(path)


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, Function | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    else:
        return []
    found = [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
    plain = all(isinstance(one, ast.Name | ast.Tuple | ast.List) for one in targets)
    return found if plain else []  # `a.b = 1` and `a[0] = 1` act on what is there


def _needs(module: _Module, node: ast.AST) -> Iterator[Reached]:
    """The definitions that a piece of code names."""
    attributes: set[int] = set()  # names of modules of which an attribute alone is used
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            dotted, inner = [part.attr], part.value
            while isinstance(inner, ast.Attribute):
                dotted, inner = [inner.attr, *dotted], inner.value
            known = isinstance(inner, ast.Name) and id(inner) not in attributes and module.imports.get(inner.id)
            if known and _counts(known) is not None:
                full = ".".join([known, *dotted])
                attributes.add(id(inner))
                yield from _find(full)
        elif isinstance(part, Import):  # in a function
            for name in _package_names(part, module.path):
                yield from _initialised(name)
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and id(part) not in attributes:
            if part.id in module.definitions:
                yield Reached(module.path, part.id)
            elif part.id in module.imports:
                yield from _find(module.imports[part.id])
            else:
                for star in module.star:
                    yield from _find(f"{star}.{part.id}")


def _find(full: str) -> Iterator[Reached]:
    """A definition by its full name, as far as the package has it; of a module alone, all of its definitions."""
    if not _counts(full):
        return
    head, *inner = full.split(".")
    for depth in range(len(inner), -1, -1):
        if (path := _file(inner[:depth])) is None:
            continue
        yield from _initialised(".".join([head, *inner[:depth]]))
        module = _module(path)
        if depth == len(inner):  # the module itself is handed on: any of it may be used
            yield from (Reached(path, name) for name in module.definitions)
        elif (name := inner[depth]) in module.definitions:
            yield Reached(path, name)
        elif name in module.imports:
            yield from _find(".".join([module.imports[name], *inner[depth + 1 :]]))
        else:
            yield from (Reached(path, name) for name in module.definitions)
        return


def _initialised(full: str) -> Iterator[Reached]:
    """What runs when a module of the package is imported: its own code, and that of the packages that it lies in."""
    head, *inner = full.split(".")
    if head == PACKAGE.name and _counts(full):
        for depth in range(len(inner) + 1):
            if path := _file(inner[:depth]):
                yield Reached(path, None)


def _file(inner: list[str]) -> Path | None:
    return _file_of(tuple(inner))


@cache
def _file_of(inner: tuple[str, ...]) -> Path | None:
    place = PACKAGE.joinpath(*inner)
    files = [place / "__init__.py", *([place.with_suffix(".py")] if inner else [])]
    return next((file for file in files if file.is_file()), None)


def _counts(full: str) -> bool | None:
    """Whether a full name is of code that counts; None if it is not of this package."""
    return None if full.split(".")[0] != PACKAGE.name else not _within(full, NOT_COUNTED)


def _within(full: str, modules: tuple[str, ...]) -> bool:
    """Whether a full name is that of one of some modules, or of something in it."""
    return any(f"{full}.".startswith(f"{PACKAGE.name}.{module}.") for module in modules)


def _alone(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.stmt:
    """An import of one name."""
    return ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], node.level)


def _package_names(node: ast.Import | ast.ImportFrom, path: Path) -> list[str]:
    """The full names of this package's that an import names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        names = [f"{_absolute(path, node)}.{alias.name}" for alias in node.names]
    return [name for name in names if _counts(name) is not None]


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    """The full name of the module that an import in a file of the package is from."""
    if not node.level or PACKAGE not in path.parents:
        return node.module or ""
    folder = path.parents[node.level - 1]
    inside = folder.relative_to(PACKAGE).parts if folder.is_relative_to(PACKAGE) else ()
    return ".".join([PACKAGE.name, *inside, *(node.module or "").split(".")]).rstrip(".")


# --- what cannot change a number ------------------------------------------------------------------------------


class _WithoutWords(ast.NodeTransformer):
    """Takes out docstrings, annotations of functions and variables, what is said to people, and what only served to say it.

    Args:
        silent: names of what is imported from modules that do not count; of progress bars, once they are seen.
    """

    def __init__(self, silent: set[str]) -> None:
        self.silent = silent | {"print"}

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        said = isinstance(node.value, ast.Call) and _root(node.value.func) in self.silent
        return None if said else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        node.cause = None
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func if _is_error(node.exc) else None
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _is_error(node) or _root(node.func) in self.silent:
            node.args, node.keywords = [], []
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
        return self.generic_visit(node)  # Python 3.12 puts empty texts into some

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for index, one in enumerate(node.body):
            if isinstance(one, ast.AnnAssign):  # of a dataclass or a model, annotations count
                both = ast.Tuple([one.annotation, one.value or ast.Constant(None)], ast.Load())
                node.body[index] = ast.Assign([one.target], both)
        return self.generic_visit(node)

    def _function(self, node: Any) -> ast.AST:
        node.returns = None
        outside, items = self.silent, [part for part in ast.walk(node) if isinstance(part, ast.withitem)]
        bars = [
            item.optional_vars.id
            for item in items
            if isinstance(item.context_expr, ast.Call) and isinstance(item.optional_vars, ast.Name)
            and _root(item.context_expr.func) in outside
        ]  # fmt: skip
        self.silent = outside.union(bars)
        self.generic_visit(node)
        self.silent = outside
        while unused := _unused(node):
            _Without(unused).generic_visit(node)
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function


class _Without(ast.NodeTransformer):
    """Takes out statements that define names which nothing uses."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def visit(self, node: ast.AST) -> ast.AST | None:
        return None if _defines(node) in self.names else super().visit(node)


def _unused(function: ast.AST) -> set[str]:
    """Texts and inner functions that are defined in a function and never used, now that no message is there to use them."""
    inside = [node for node in ast.walk(function) if node is not function]
    used = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    used |= {name for node in inside if isinstance(node, ast.Nonlocal | ast.Global) for name in node.names}
    return {name for node in inside if (name := _defines(node)) and name not in used}


def _defines(node: ast.AST) -> str | None:
    """The name, if a statement does no more than bind a text or an inner function to it."""
    if isinstance(node, Function):
        return None if node.decorator_list else node.name
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and _is_text(node.value):
        return node.targets[0].id if isinstance(node.targets[0], ast.Name) else None
    return None


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) and _is_text(node.orelse)
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    if isinstance(node, ast.Call):  # ", ".join(…)
        return isinstance(node.func, ast.Attribute) and _is_text(node.func.value)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_error(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id.endswith(("Error", "Exception", "Stopped"))


def _root(node: ast.AST) -> str | None:
    """The name that a chain of attributes begins with."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _text(node: Any) -> str:
    """A syntax tree as text. `ast.dump` leaves out or adds what is empty, and shows texts, as the version of Python has it."""
    if isinstance(node, ast.AST):
        parts = ((name, getattr(node, name, None)) for name in node._fields if name != "kind")  # the u of u"text"
        shown = ",".join(f"{name}={_text(one)}" for name, one in parts if one not in (None, []))
        return f"{type(node).__name__}({shown})"
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"
    return ascii(node)
