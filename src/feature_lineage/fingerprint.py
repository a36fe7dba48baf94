"""A hash of the code that a script runs, so that a step reruns when its code changes and only then.

Snakemake sees a script's own text, not the library that it imports. The hash covers the script and every module
of this package that it reaches through imports; comments, docstrings and layout do not count. What stands beside
a module under its name as `.html`, `.css` or `.js` counts byte for byte, and so do its prompts, `prompts/<module>_*.txt`, and the
files that it takes over from others, `<module>_files/*`.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def fingerprint(script: str | Path) -> str:
    """Hex digest of the code that `script` can reach, 16 characters.

    Raises:
        SyntaxError: a file on the way does not parse; the message names it.
    """
    digest = hashlib.sha256()
    for path in sorted(_closure(Path(script).resolve()), key=lambda path: path.name):
        digest.update(f"{path.name}\n{_code(path)[0]}\n".encode())
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
    """The file's syntax tree as text, without docstrings and positions, and the package modules it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    imports: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            inner = (node.module or "").split(".")[1:]
            imports += _modules(".".join(inner)) if inner else []
            imports += [found for alias in node.names for found in _modules(".".join([*inner, alias.name]))]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                head, _, inner = alias.name.partition(".")
                imports += _modules(inner) if head == PACKAGE.name and inner else []
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree, include_attributes=False), imports


def _modules(dotted: str) -> list[Path]:
    path = PACKAGE.joinpath(*dotted.split(".")).with_suffix(".py")
    return [path] if path.is_file() else []
