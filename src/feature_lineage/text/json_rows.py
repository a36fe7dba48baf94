"""Rows of JSON and JSON lines."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feature_lineage.errors import InputError
from feature_lineage.text.files import READ, opened, remedy_for


def json_rows(path: Path, text: str, label: str) -> Iterator[tuple[int, Any, Any]]:
    """Of a `.json`, which holds an array, lines, or one object over several lines."""
    with opened(path) as stream:
        start = b""
        while not start.strip(_BLANK) and (chunk := stream.read(READ)):
            start += chunk
        if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            for number, entry in enumerate(_json_items(path, stream, start), start=1):
                yield _json_row(entry, number, text, f"{label}: item {number}")
            return
    with opened(path) as stream:
        first = next((line for line in _lines(stream) if line.strip(_BLANK)), b"")
    try:
        json.loads(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        with opened(path) as stream:
            content = stream.read()
        try:
            entry = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            pass  # lines, then, and the first of them is damaged
        else:
            yield _json_row(entry, 1, text, label)
            return
    yield from json_lines(path, text, label)


_BLANK = b" \t\r\n" + codecs.BOM_UTF8


_SPACE = re.compile(r"[ \t\r\n]*")
_LARGEST = 1 << 28  # characters of an item


def _json_items(path: Path, stream: Any, start: bytes) -> Iterator[Any]:
    """The items of a JSON array, one by one, from a stream of which `start` is read."""
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    scan = json.JSONDecoder().raw_decode
    text = decode(start)
    at, number, ended = text.index("[") + 1, 0, False

    def wrong(problem: Any) -> InputError:
        return InputError(
            f"{path}: item {number + 1}: not JSON ({problem}), the file may be truncated; replace it or leave it out"
        )

    while True:
        at = _SPACE.match(text, at).end()
        begin = at
        if text[at : at + 1] == "]":
            if (text[at + 1 :] + decode(stream.read(), True)).strip():
                raise wrong("more after the end of the array")
            return
        if number and text[at : at + 1] == ",":
            begin = _SPACE.match(text, at + 1).end()
        elif number and at < len(text):
            raise wrong("a comma is missing before it")
        try:
            entry, stop = scan(text, begin)
            whole = stop < len(text) or ended  # a number may go on
        except json.JSONDecodeError as error:
            if ended or len(text) - at > _LARGEST:
                raise wrong(error) from None
            whole = False
        except (ValueError, RecursionError) as error:  # numbers too long and lists too deep for Python
            raise wrong(error) from None
        if whole:
            yield entry
            at, number = stop, number + 1
        else:
            chunk = stream.read(max(READ, len(text) - at))
            ended = not chunk
            text, at = text[at:] + decode(chunk, ended), 0


def json_lines(path: Path, text: str, label: str) -> Iterator[tuple[int, Any, Any]]:
    """Of each line that holds an object: its number from 1, its text and its licence."""
    with opened(path) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode("utf-8"))
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not JSON ({error}), where each line is an object; the file may be truncated, or its objects span "
                    "several lines; replace it or leave it out"
                ) from None
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); convert the file or leave it out"
                ) from None
            except (ValueError, RecursionError) as error:  # numbers too long and lists too deep for Python
                raise InputError(f"{path}:{number}: cannot be read ({error}); mend the line or leave it out") from None
            yield _json_row(entry, number, text, f"{label}:{number}")


def _json_row(entry: Any, number: int, text: str, where: str) -> tuple[int, Any, Any]:
    if not isinstance(entry, dict):
        kinds = {str: "a text", list: "a list", type(None): "null", bool: "true or false"}
        raise InputError(
            f"{where}: {kinds.get(type(entry), 'a number')}, where an object with the key {text!r} is meant; convert the file, for instance "
            f'to lines {{"{text}": …}}'
        )
    if text not in entry:
        raise InputError(
            f"{where}: has no key {text!r}, only {', '.join(map(repr, entry)) or 'nothing'}; {remedy_for(entry, text)}"
        )
    return number, entry[text], entry.get("license")


def _lines(stream: Any) -> Iterator[bytes]:
    """Lines of a binary stream that need not be iterable (pyarrow's is not, for compressed input)."""
    rest = b""
    while chunk := stream.read(max(READ, len(rest))):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest
