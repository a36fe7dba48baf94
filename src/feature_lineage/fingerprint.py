"""A hash of the code that a script runs, so that a step reruns when its code changes and only then.

Snakemake sees a script's own text, not the library that it imports. The hash covers the script and every module
of this package that it reaches through imports, the `__init__.py` of packages on the way among them; comments, docstrings and layout
do not count. What stands beside a module under its name as `.html`, `.css` or `.js` counts byte for byte, and so do its prompts,
`prompts/<module>_*.txt`, and the files that it takes over from others, `<module>_files/*`. The same code has the same hash under every
version of Python that reads it, in every process and wherever it lies.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


def fingerprint(script: str | Path) -> str:
    """Hex digest of the code that `script` can reach, 16 characters.

    Raises:
        SyntaxError: a file on the way does not parse; the message names it.
    """
    script = Path(script).resolve()
    digest = hashlib.sha256()
    names = {path: path.name if path == script else path.relative_to(PACKAGE).as_posix() for path in _closure(script)}
    for path, name in sorted(names.items(), key=lambda item: (item[0] != script, item[1])):
        digest.update(f"{name}\n{_code(path)[0]}\n".encode())
        beside = [path.with_suffix(suffix) for suffix in (".html", ".css", ".js")]
        named = (f"prompts/{path.stem}_*.txt", f"{path.stem}_files/*")
        for text in (*beside, *(found for pattern in named for found in sorted(path.parent.glob(pattern)))):
            if text.is_file():
                digest.update(text.read_bytes())
    return digest.hexdigest()[:16]


def _closure(script: Path) -> set[Path]:
    todo, seen = [script], set()
    while todo:
        if (path := todo.pop()) not in seen:
            seen.add(path)
            todo += _code(path)[1]
    return seen


@cache
def _code(path: Path) -> tuple[str, list[Path]]:
    """The file's syntax tree as text, without docstrings and positions, and the package modules that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    imports: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = _absolute(path, node)
            for name in (module, *(f"{module}.{alias.name}" for alias in node.names)):
                imports += _modules(name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                imports += _modules(alias.name)
        elif isinstance(node, ast.JoinedStr):  # Python 3.12 puts empty texts into some
            node.values = [one for one in node.values if not (isinstance(one, ast.Constant) and one.value == "")]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return _text(tree), imports


def _text(node: Any) -> str:
    """A syntax tree as text. `ast.dump` leaves out or adds what is empty, and shows texts, as the version of Python has it."""
    if isinstance(node, ast.AST):
        parts = ((name, getattr(node, name, None)) for name in node._fields if name != "kind")  # the u of u"text"
        return (
            f"{type(node).__name__}({','.join(f'{name}={_text(one)}' for name, one in parts if one not in (None, []))})"
        )
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"
    return ascii(node)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    """The full name of the module that an import in a file of the package is from."""
    if not node.level or PACKAGE not in path.parents:
        return node.module or ""
    folder = path.parents[node.level - 1]
    inside = folder.relative_to(PACKAGE).parts if folder.is_relative_to(PACKAGE) else ()
    return ".".join([PACKAGE.name, *inside, *(node.module or "").split(".")]).rstrip(".")


def _modules(dotted: str) -> list[Path]:
    """The file of a module of this package, if it is one, and the `__init__.py` of the packages that it lies in."""
    head, *inner = dotted.split(".")
    if head != PACKAGE.name:
        return []
    folders = [PACKAGE.joinpath(*inner[:depth]) for depth in range(len(inner) + 1)]
    files = [folder / "__init__.py" for folder in folders]
    files += [folders[-1].with_suffix(".py")] if inner else []
    return [path for path in files if path.is_file()]
