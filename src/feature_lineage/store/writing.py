"""Files that appear whole or not at all, and faults of disks, named."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from feature_lineage.errors import InputError

PARTIAL = ".partial"  # how the name of a file ends that is being written


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the final name, on failure nothing is left.

    A directory's files are moved one by one, so that several steps may write into one directory.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}{PARTIAL}"
    remove(temporary)
    try:
        with disk_faults_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.is_dir():
                path.mkdir(exist_ok=True)
                for file in sorted(temporary.iterdir()):
                    file.replace(path / file.name)
            else:
                temporary.replace(path)
    finally:
        remove(temporary)


# In the words of the system and SQLite, whose files may lie on another disk than the artefact.
_FULL = ("No space left on device", "disk is full")
_LITTLE = 1 << 16  # bytes: a disk with less is full, whatever a library says that failed to write to it


# In the words of the system, where an error has no file name of its own, and of torch.
_REMOVED = re.compile("No such file or directory|Parent directory .* does not exist")


@contextmanager
def disk_faults_named(path: str | Path) -> Iterator[None]:
    """Turn the many errors that a full disk, or something removed while `path` is written, causes into one that names the file."""
    path = Path(path)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if no_space(error) or (isinstance(error, OSError | RuntimeError) and _free(path) < _LITTLE):
            raise InputError(
                f"{_final(path)}: the disk is full; free some space there and start again, finished steps are kept ({error})"
            ) from error
        if removed := _removed(error, path):
            raise InputError(f"{removed}: this was removed while {path.name} was written ({error})") from error
        raise


def _removed(error: BaseException | None, path: Path) -> str | None:
    """What was removed, if an error says that something was; the folder of `path` where it does not say what."""
    if not path.parent.exists():
        return str(path.parent)
    while error is not None:
        if isinstance(error, FileNotFoundError) and error.filename:
            return _final(error.filename)
        if _REMOVED.search(str(error)):
            return str(path.parent)
        error = error.__cause__
    return None


def _final(path: str | Path) -> str:
    """The final name of what is written under a temporary one."""
    return re.sub(rf"/\.([^/]+){re.escape(PARTIAL)}(?=/|$)", r"/\1", str(path))


def no_space(error: BaseException | None) -> bool:
    """Whether an error says that a disk is full."""
    while error is not None:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if any(words in str(error) for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _free(path: Path) -> int:
    """Bytes free on the disk on which a path is, or is to be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def remove(path: Path) -> None:
    """Remove a file or folder, which others may be removing too; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():  # what a link leads to is not ours
        with suppress(FileNotFoundError):  # somebody else removes it too
            shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
