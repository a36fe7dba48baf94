"""Which changes of the code make a step rerun, and that nothing else does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from reworded import reword

from feature_lineage.jobs import fingerprint as module
from feature_lineage.jobs.fingerprint import fingerprint
from feature_lineage.store.provenance import checkpoint_folder, provenance

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


def forget():
    """One process reads a file once; here files change under its feet, and the package lies elsewhere."""
    for cached in (module._module, module._next, module._code, module._file_of):
        cached.cache_clear()


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
        forget()
        return fingerprint(tmp_path / "step.py")

    yield folder, hashed
    forget()


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
    (folder.parent / "step.py").write_text("import feature_lineage.unused as u\nx = u.y\n")
    before = hashed()
    (folder / "unused.py").write_text("y = 4\n")
    assert hashed() != before


def test_definitions_that_are_not_reached_do_not_count(package):
    """A step reruns for what it names, not for all that its modules hold: of functions, classes, constants and re-exports."""
    folder, hashed = package
    (folder / "outer.py").write_text((folder / "outer.py").read_text() + "def other():\n    return aside.y\n")
    (folder / "aside.py").write_text(
        "import numpy\nfrom feature_lineage.inner import value as again\n\nx = 2\ny = 5\n\n\nclass Z: pass\n"
    )
    before = hashed()
    for old, new in (
        ("y = 5", "y = 6"),
        ("class Z: pass", "class Z: a = 1"),
        ("import numpy\n", "import math\nimport os.path as p\nimport numpy\nw = math.pi\n"),
    ):
        text = (folder / "aside.py").read_text()
        (folder / "aside.py").write_text(text.replace(old, new))
        assert hashed() == before, new
    for old, new in (
        ("import numpy", "import numpy\nnumpy.seterr(all='raise')"),
        ("x = 2", "x = y"),
        ("x = y", "x = y + w"),
    ):
        (folder / "aside.py").write_text((folder / "aside.py").read_text().replace(old, new))
        assert hashed() != before, new
        before = hashed()
    for old, new in (("y = 6", "y = 7"), ("import math", "import cmath as math")):
        (folder / "aside.py").write_text((folder / "aside.py").read_text().replace(old, new))
        assert hashed() != before, "x is y + math.pi now"
        before = hashed()


@pytest.mark.parametrize(
    ("script", "edits"),
    [
        ("from feature_lineage import deep\nprint\ndeep.inner_name(1)\n", {"used": True, "spare": False}),
        ("import feature_lineage.deep as d\nx = d.inner_name\n", {"used": True, "spare": False}),
        ("from feature_lineage.deep import inner_name as n\nx = [n]\n", {"used": True, "spare": False}),
        ("import feature_lineage.deep\nx = feature_lineage.deep.inner_name\n", {"used": True, "spare": False}),
        ("from feature_lineage import deep\nx = vars(deep)\n", {"used": True, "spare": True}),
        ("from feature_lineage.shown import inner_name\nx = inner_name\n", {"used": True, "spare": False}),
        ("from feature_lineage.deep import *\nx = inner_name\n", {"used": True, "spare": False}),
        (
            "def f():\n    from feature_lineage.deep import inner_name\n    return inner_name\n",
            {"used": True, "spare": False},
        ),
    ],
)
def test_each_form_of_import_leads_to_what_is_used(package, script, edits):
    folder, hashed = package
    (folder / "shown.py").write_text("from feature_lineage.deep import inner_name, spare\n")
    (folder.parent / "step.py").write_text(script)
    text = "used = 1\nspare = 1\n\n\ndef inner_name(more=used):\n    return more\n"
    for name, counts in edits.items():
        (folder / "deep.py").write_text(text)
        before = hashed()
        (folder / "deep.py").write_text(text.replace(f"{name} = 1", f"{name} = 2"))
        assert (hashed() != before) is counts, name


WORDS = '''
from feature_lineage.errors import InputError
from feature_lineage.progress import logger, progress

class Wrong(Exception): pass

def work(x: int, label: str) -> int:
    """Doc."""
    where = f"{x} words" if x else "no " + ", ".join(["words"])
    def told(what):
        return InputError(f"{what} is wrong in {where}; mend it")
    if x < 0:
        raise told("all")
    if x > 9:
        raise InputError(f"{x}: too many words") from None
    logger.info("some words %d", x)
    assert x, "words fail"
    print("words")
    total: int = 0
    with progress(x, "words", label) as bar:
        for one in range(x):
            bar.update(one)
            bar.set_postfix(words=f"{one} words")
            total += one
    return total
'''


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("words", "terms", False),
        ("Doc.", "Documentation.", False),
        ("; mend it", "; mend it, then run the step again", False),
        ('"all"', '"everything"', False),
        ("x: int, label: str) -> int", "x: float, label: object) -> float", False),
        ("total: int = 0", "total: float = 0", False),
        ("from None", "from ValueError('first')", False),
        ('    print("words")\n', "", False),
        ("            bar.update(one)\n", "            bar.update(one + 0)\n", False),
        ("x > 9", "x > 8", True),
        ("raise InputError", "raise ValueError", True),
        ("total += one", "total += one + 1", True),
        ("assert x,", "assert not x,", True),
        ("range(x)", "range(x + 1)", True),
        ("total: int = 0", "total: int = 1", True),
    ],
)
def test_what_is_said_to_people_does_not_count(package, old, new, counts):
    folder, hashed = package
    (folder / "errors.py").write_text("class InputError(Exception): pass\n")
    (folder.parent / "step.py").write_text("from feature_lineage.words import work\nwork(1, 'a')\n")
    (folder / "words.py").write_text(WORDS)
    before = hashed()
    assert old in WORDS
    (folder / "words.py").write_text(WORDS.replace(old, new))
    assert (hashed() != before) is counts


def test_job_control_does_not_count(package):
    folder, hashed = package
    (folder.parent / "step.py").write_text("from feature_lineage.jobs import job\nwith job('log'):\n    pass\n")
    (folder / "jobs.py").write_text("def job(log):\n    return 1\n")
    before = hashed()
    (folder / "jobs.py").write_text("def job(log):\n    return 2\n")
    assert hashed() == before


def test_a_module_in_a_folder_can_be_left_out_but_not_what_it_is_given(package, monkeypatch):
    """Its neighbours count, one whose name begins alike too. Tried in each form of import."""
    folder, hashed = package
    monkeypatch.setattr(module, "NOT_COUNTED", (*module.NOT_COUNTED, "deep.line"))
    (folder / "deep").mkdir()
    files = {"__init__": "", "line": "def send(x): return x\n", "liner": "y = 1\n", "read": "z = 1\n"}
    for name, text in files.items():
        (folder / "deep" / f"{name}.py").write_text(text)
    uses = "from feature_lineage.deep.read import z\nfrom feature_lineage.deep.liner import y\n"
    for form, called in (
        ("from feature_lineage.deep.line import send", "send"),
        ("from feature_lineage.deep import line", "line.send"),
        ("import feature_lineage.deep.line", "feature_lineage.deep.line.send"),
        ("import feature_lineage.deep.line as way", "way.send"),
    ):
        (folder.parent / "step.py").write_text(f"{form}\n{uses}x = {called}(z, 1) + y\n{called}(z)\n")
        for name, counts in (("line", False), ("liner", True), ("read", True), ("../../step", True)):
            path, before = folder / "deep" / f"{name}.py", hashed()
            text = path.read_text()
            path.write_text(text.replace("return x", "return x + 1").replace("1", "2"))
            assert path.read_text() != text and (hashed() != before) is counts, (form, name)
            path.write_text(text)


@pytest.fixture
def changed(project, tmp_path, monkeypatch):
    """A function that changes lines of a copy of the package, and says which of some scripts then have another fingerprint."""

    def change(file, lines, scripts="*.py"):
        scripts = sorted((project / "workflow" / "scripts").glob(scripts))
        before = [fingerprint(script) for script in scripts]
        copied = shutil.copytree(module.PACKAGE, tmp_path / "feature_lineage", ignore=shutil.ignore_patterns("*.pyc"))
        text = (copied / file).read_text()
        for old, new in lines.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (copied / file).write_text(text)
        monkeypatch.setattr(module, "PACKAGE", copied)
        forget()
        after = [fingerprint(script) for script in scripts]
        forget()
        return {script.stem for script, a, b in zip(scripts, before, after, strict=True) if a != b}

    return change


def test_how_replies_are_fetched_does_not_count(changed):
    lines = {
        "TRIES = 8": "TRIES = 9",
        "pause = min(2 * pause, LONGEST_WAIT)": "pause = 0.0",
        "return Received(bytes(body))": "return Received(None)",
        "import openai\n": "import openai\nopenai.log = 'debug'\n",
    }
    assert changed("explanations/transport.py", lines) == set()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("prompts", "LEVELS = 10", "LEVELS = 11"),
        ("requests", "ALTERNATIVES = 20", "ALTERNATIVES = 5"),
        ("completions", "if text is None:", "if not text:"),
        ("completions", "LARGEST_REPLY = 1 << 26", "LARGEST_REPLY = 1 << 25"),
        ("client", 'if entry["finish"] == "length":', "if False:"),
    ],
)
def test_what_is_asked_and_which_replies_are_accepted_counts(changed, file, old, new):
    assert changed(f"explanations/{file}.py", {old: new}, "interpret_*.py") == {"interpret_features"}


def test_checkpoints_survive_an_edit_that_does_not_count(package, tmp_path):
    """Of a training under way: they lie in a folder named by what the step is made of, its code among it."""
    folder, hashed = package

    def checkpoints():
        return checkpoint_folder(tmp_path / "models" / "base", provenance({}, {"code": hashed()}))

    checkpoint = checkpoints() / "checkpoint-3"
    checkpoint.mkdir()
    (folder / "outer.py").write_text(FILES["outer.py"].replace("Work.", "It works.") + "# words\n")
    assert checkpoints() == checkpoint.parent and checkpoint.exists()
    (folder / "inner.py").write_text("value = 2\n")
    assert checkpoints() != checkpoint.parent and not checkpoint.exists()


def test_no_message_of_the_project_counts(project, tmp_path, monkeypatch):
    """Every message of the library and its scripts is reworded: no step reruns. It once was 37 messages and 124 jobs."""
    scripts = sorted((project / "workflow" / "scripts").glob("*.py"))
    before = [fingerprint(script) for script in scripts]
    copied = shutil.copytree(module.PACKAGE, tmp_path / "feature_lineage", ignore=shutil.ignore_patterns("__pycache__"))
    others = shutil.copytree(
        project / "workflow" / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__")
    )
    assert reword(copied) + reword(others) > 300
    monkeypatch.setattr(module, "PACKAGE", copied)
    forget()
    after = [fingerprint(others / script.name) for script in scripts]
    forget()
    assert {script.stem for script, a, b in zip(scripts, before, after, strict=True) if a != b} == set()


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
    page = next(path for path, _ in module.reached(script) if path.stem == "page")
    assert list(page.parent.glob("page_files/*.js")), "under the name that is hashed"


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
        ("train_autoencoder", {"autoencoder", "hooks", "windows"}, {"figures", "page", "fates", "merge"}),
        ("plot_sankey", {"figures", "formats"}, {"autoencoder", "training", "windows"}),
        ("build_corpus", {"corpora", "formats"}, {"windows", "training", "figures"}),
        ("train_model", {"training", "windows"}, {"step", "active_entries", "autoencoder"}),
        ("interpret_features", {"prompts", "client"}, {"bootstrap", "step", "figures"}),
    ],
)
def test_the_projects_scripts_reach_what_they_use(project, script, reaches, leaves):
    found = {path.stem for path, name in module.reached(project / "workflow" / "scripts" / f"{script}.py") if name}
    assert reaches <= found
    assert not leaves & found


# --- whoever computes it ---------------------------------------------------------------------------------------------

ELSEWHERE = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("fingerprint", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.PACKAGE = Path(sys.argv[2])
for script in sys.argv[3:]:
    print(module.fingerprint(script))
"""


def elsewhere(python, package, scripts, seed="0"):
    """The fingerprints of scripts as another process has them."""
    command = [python, "-c", ELSEWHERE, module.__file__, package, *scripts]
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def other_pythons():
    """Interpreters that the project supports beside this one, here: on the path and pyenv's."""
    found = {}
    for minor in (11, 12, 13, 14):
        paths = [Path(folder) / f"python3.{minor}" for folder in os.environ["PATH"].split(os.pathsep)]
        paths += sorted(Path("~/.pyenv/versions").expanduser().glob(f"3.{minor}.*/bin/python3.{minor}"))
        for path in paths:
            ran = (
                path.is_file() and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0
            )  # pyenv's shims do not
            if ran and minor != sys.version_info.minor:
                found.setdefault(minor, path)
    return found


TRICKY = """
from __future__ import annotations
import asyncio as a, os.path
from . import *
u"a docstring"
x: int = 1_000; y = 0x10, 1e400, 2j, b"\\xff", ..., None, True, "\\U0001fae8 \\u0378 é", u"u", ""
z = f"{x!r:>{y}} {x=} {x:} {'a' 'b'}" "c" f"", [], {}, (), {**{}}, [*y], x[1:, ::2], lambda: None
def f(a, /, b=1, *c, d, e=2, **g) -> None: "doc"; return
def g(): pass
class C(object, metaclass=type):
    "doc"
async def h():
    async with x as y, z: yield [i async for i in y if i if x]
match x:
    case [1, *_] | {"a": None, **rest} if (n := 1): pass
    case C(a=1) as c: pass
try: pass
except* ValueError as e: raise E from None
else: del x
finally: assert x, "why"
"""


def test_every_version_of_python_computes_the_same(project, tmp_path):
    """`ast.dump` has `type_params=[]` from 3.12 on and nothing empty from 3.13 on, and what `repr` shows of a text depends on the
    version's Unicode. All scripts of the project, and one of all that Python can say."""
    if not (pythons := other_pythons()):
        pytest.skip("no other version of Python is installed")
    (tmp_path / "tricky.py").write_text(TRICKY)
    scripts = [*sorted((project / "workflow" / "scripts").glob("*.py")), tmp_path / "tricky.py"]
    own = [fingerprint(script) for script in scripts]
    assert len(set(own)) == len(own) > 20
    for python in pythons.values():
        assert elsewhere(python, module.PACKAGE, scripts) == own, python


@pytest.fixture
def nested(package):
    """The package with folders in it, two modules of one name, and a script that reaches them."""
    folder, hashed = package
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"from .same import value as {name}_value\n")
        (folder / name / "same.py").write_text(
            f"value = '{name}'\nprint(value.title() or [].append(1))\n[].append(value)\n"
        )
    (folder / "__init__.py").write_text("version = 1\n")
    (folder / "a" / "far.py").write_text("from ..inner import value\nfrom .. import aside\nfrom . import near\n")
    (folder / "a" / "near.py").write_text("near = 1\n")
    script = "from feature_lineage.a.same import value\nimport feature_lineage.b.same\nimport feature_lineage.a.far\n"
    (folder.parent / "step.py").write_text(script)
    return folder, hashed


def test_two_modules_of_one_name_have_one_hash_in_every_process(nested):
    folder, hashed = nested
    script = folder.parent / "step.py"
    found = {tuple(elsewhere(sys.executable, folder, [script], seed)) for seed in map(str, range(8))}
    assert found == {(hashed(),)}


def test_modules_of_one_name_are_told_apart(nested):
    folder, hashed = nested
    before = hashed()
    (folder / "a" / "same.py").write_text("value = 'b'\n")
    (folder / "b" / "same.py").write_text("value = 'a'\n")
    assert hashed() != before, "what one said, the other says"


@pytest.mark.parametrize(
    "file",
    [
        "__init__.py",
        "a/__init__.py",
        "a/same.py",
        "b/__init__.py",
        "b/same.py",
        "a/far.py",
        "a/near.py",
        "inner.py",
        "aside.py",
    ],
)
def test_packages_and_relative_imports_are_followed(nested, file):
    """`import a.b.c` and `from a.b import c` run the `__init__.py` of a and b; `from .x`, `from ..x`, `from . import x` and
    `from .. import x` are imports like any other."""
    folder, hashed = nested
    before = hashed()
    (folder / file).write_text((folder / file).read_text() + "[].sort()\n")
    assert hashed() != before


def test_the_same_checkout_elsewhere_has_the_same_hash(nested, tmp_path):
    folder, hashed = nested
    copied = shutil.copytree(folder.parent, tmp_path / "elsewhere" / "deeper")
    assert elsewhere(sys.executable, copied / folder.name, [copied / "step.py"]) == [hashed()]
