import pytest

from feature_lineage import fingerprint as module
from feature_lineage.fingerprint import fingerprint

SCRIPT = '''"""A step."""
from feature_lineage.outer import work

work()
'''
FILES = {
    "outer.py": (
        '"""Outer."""\nfrom feature_lineage import aside\nfrom feature_lineage.inner import value\n\n\n'
        'def work():\n    """Work."""\n    return value + aside.x\n'
    ),
    "inner.py": "# first\nvalue = 1\n",
    "aside.py": "import numpy\n\nx = 2\n",
    "unused.py": "y = 3\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package under this one's name, a script that uses it, and a function that hashes the script anew."""
    folder = tmp_path / "feature_lineage"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (tmp_path / "step.py").write_text(SCRIPT)
    monkeypatch.setattr(module, "PACKAGE", folder)

    def hashed():
        module._code.cache_clear()  # one process reads a file once; here it changes under its feet
        return fingerprint(tmp_path / "step.py")

    yield folder, hashed
    module._code.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("inner.py", "# first", "# another comment\n\n"),
        ("inner.py", "value = 1", "value = (\n    1\n)  # the same"),
        ("outer.py", '"""Outer."""', '"""Another docstring\n\nof the module."""'),
        ("outer.py", '    """Work."""\n', ""),
        ("unused.py", "y = 3", "y = 4"),
        ("unused.py", "y = 3", "this is not Python"),
    ],
)
def test_comments_docstrings_layout_and_unused_modules_do_not_count(package, file, old, new):
    folder, hashed = package
    before = hashed()
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    assert hashed() == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("../step.py", "work()", "work()\nwork()"),
        ("outer.py", "value + ", "value - "),
        ("outer.py", "def work():", "def work(more=1):"),
        ("inner.py", "value = 1", "value = 1.0"),  # reached by `from feature_lineage.inner import …`
        ("aside.py", "x = 2", "x = 3"),  # reached by `from feature_lineage import aside`
        ("outer.py", "return value", 'f"""not a docstring"""\n    return value'),
    ],
)
def test_code_that_is_reached_counts(package, file, old, new):
    folder, hashed = package
    before = hashed()
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    assert hashed() != before


def test_module_imported_by_its_full_name_counts(package):
    folder, hashed = package
    (folder.parent / "step.py").write_text("import feature_lineage.unused as u\nprint(u.y)\n")
    before = hashed()
    (folder / "unused.py").write_text("y = 4\n")
    assert hashed() != before


def test_import_inside_a_function_counts(package):
    folder, hashed = package
    (folder.parent / "step.py").write_text("def f():\n    from feature_lineage.unused import y\n    return y\n")
    before = hashed()
    (folder / "unused.py").write_text("y = 4\n")
    assert hashed() != before


@pytest.mark.parametrize("suffix", ["html", "css", "js"])
def test_what_stands_beside_a_module_counts_byte_for_byte(package, suffix):
    folder, hashed = package
    plain = hashed()
    (folder / f"inner.{suffix}").write_text("<p>one</p>")
    one = hashed()
    (folder / f"inner.{suffix}").write_text("<p>one</p> ")
    (folder / f"unused.{suffix}").write_text("<p>of a module that is not reached</p>")
    assert len({plain, one, hashed()}) == 3


def test_prompts_of_a_module_count_byte_for_byte(package):
    folder, hashed = package
    found = {hashed()}
    (folder / "prompts").mkdir()
    for name, text in (("unused_a", "none"), ("inner_a", "one"), ("inner_a", "one "), ("inner_b", "two")):
        (folder / "prompts" / f"{name}.txt").write_text(text)
        found.add(hashed())
    assert len(found) == 4


def test_files_that_a_module_takes_over_count_byte_for_byte(package):
    folder, hashed = package
    found = {hashed()}
    for name, text in (("unused_files", "none"), ("inner_files", "one"), ("inner_files", "one ")):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "library.min.js").write_text(text)
        found.add(hashed())
    assert len(found) == 3


def test_the_reports_library_is_among_them(project):
    script = project / "workflow" / "scripts" / "write_report.py"
    report = next(path for path in module._closure(script) if path.stem == "report")
    assert list(report.parent.glob("report_files/*.js")), "under the name that is hashed"


def test_modules_that_import_each_other_end(package):
    folder, hashed = package
    (folder / "inner.py").write_text("from feature_lineage import outer\n\nvalue = 1\n")
    assert len(hashed()) == 16


def test_error_names_the_file_that_does_not_parse(package):
    folder, hashed = package
    (folder / "inner.py").write_text("value = = 1\n")
    with pytest.raises(SyntaxError) as error:
        hashed()
    assert error.value.filename == str(folder / "inner.py")


@pytest.mark.parametrize(
    ("script", "reaches", "leaves"),
    [
        ("train_autoencoder", {"autoencoder", "activations", "tokens"}, {"figures", "report", "flow", "merge"}),
        ("draw_sankey", {"figures", "artifacts"}, {"autoencoder", "training", "tokens"}),
        ("build_corpus", {"corpora", "artifacts"}, {"tokens", "training", "figures"}),
    ],
)
def test_the_projects_scripts_reach_what_they_use(project, script, reaches, leaves):
    found = {path.stem for path in module._closure(project / "workflow" / "scripts" / f"{script}.py")}
    assert reaches <= found
    assert not leaves & found
