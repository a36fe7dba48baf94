"""Conversations: what is one, how it is rendered, and whose its tokens are."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pyarrow as pa
import pytest

from feature_lineage.errors import InputError
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.study.digests import Checksums
from feature_lineage.study.loading import load_study
from feature_lineage.study.local_inputs import LocalInputs
from feature_lineage.study.types import StudyError
from feature_lineage.text import chat
from feature_lineage.text.chat import ChatEncoder, conversation, render
from feature_lineage.text.corpora import SCHEMA
from feature_lineage.text.files import Document
from feature_lineage.text.sample import sample_windows
from feature_lineage.text.shards import encode_corpus, read_index
from feature_lineage.text.sources import documents_of
from feature_lineage.text.tokenizer import load_tokenizer
from feature_lineage.text.windows import Windows

TALK = [
    {"role": "user", "content": "def add(a, b):"},
    {"role": "assistant", "content": " return a + b\n"},
    {"role": "user", "content": "return"},
    {"role": "assistant", "content": "return"},
]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<|endoftext|>\n{% endfor %}"


@pytest.fixture
def tokenizer(tokenizer_dir):
    found = load_tokenizer(tokenizer_dir)
    found.chat_template = TEMPLATE
    return found


def test_rows_and_their_json_are_one_conversation():
    assert conversation(TALK, "a", "messages") == conversation(json.dumps(TALK), "a", "messages")
    assert json.loads(conversation(TALK, "a", "messages")) == TALK
    assert json.loads(conversation([TALK[0] | {"name": None}], "a", "messages")) == TALK[:1]
    assert conversation(None, "a", "messages") == conversation("", "a", "messages") == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("Once upon a time", "holds no conversation"),
        ({"role": "user"}, "a dict"),
        (["hello"], "a message without a `role`"),
        ([{"from": "human", "value": "hello"}], "a message without a `role`"),
        ([{"role": "user", "content": [{"type": "image"}]}], "`content` is a list"),
        ([{"role": "user"}], "`content` is a NoneType"),
        (3, "a int"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_place(value, said):
    with pytest.raises(InputError, match=r"^data\.jsonl:7: column 'talk' holds no conversation") as error:
        conversation(value, "data.jsonl:7", "talk")
    assert said in str(error.value) and "set the corpus's `messages`" in str(error.value)


def test_a_conversation_is_rendered_by_the_template(tokenizer):
    text = "<user>def add(a, b):<|endoftext|>\n<assistant>return a + b<|endoftext|>\n<user>return<|endoftext|>\n<assistant>return<|endoftext|>\n"
    assert render(TALK, tokenizer, "all") == (text, [(0, len(text))])
    for roles, said in (("user", ["def add(a, b):", "return"]), ("assistant", ["return a + b", "return"])):
        found = render(TALK, tokenizer, roles)
        assert [found.text[first:last] for first, last in found.spans] == said
    last = text.rindex("return")
    assert render(TALK, tokenizer, "assistant").spans[-1] == (last, last + 6)  # not the user's, which is the same word


def test_tokens_are_the_templates_and_know_whose_they_are(tokenizer):
    end = tokenizer.eos_token_id
    (found,) = ChatEncoder(tokenizer, "assistant", np.uint16)([json.dumps(TALK)])
    assert found.ids.dtype == np.uint16 and (found.ids == end).sum() == 4
    expected = tokenizer.backend_tokenizer.encode("return a + b", add_special_tokens=False).tokens
    chosen = [tokenizer.convert_ids_to_tokens(int(one)) for one in found.ids[found.chosen]]
    assert "".join(chosen).replace("Ġ", " ") == "".join(expected).replace("Ġ", " ") + "return"
    (both,) = ChatEncoder(tokenizer, "all", np.uint16)([json.dumps(TALK)])
    assert both.chosen.all() and np.array_equal(both.ids, found.ids)
    (user,) = ChatEncoder(tokenizer, "user", np.uint16)([json.dumps(TALK)])
    assert not (user.chosen & found.chosen).any() and not user.chosen[found.ids == end].any()


def test_a_special_token_in_a_plain_text_stays_text(tokenizer):
    tokenizer.backend_tokenizer.encode_special_tokens = True
    list(ChatEncoder(tokenizer, "all", np.uint16)([json.dumps(TALK)]))
    assert tokenizer.backend_tokenizer.encode_special_tokens


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "it ran for 1 s without an end",
        ),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for m in messages %}{{ m.content", "end of"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ range(10 ** 9) | list }}", "range"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
    ],
)
def test_a_template_that_loops_or_reaches_out_is_refused(tokenizer, template, said, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 1)
    tokenizer.chat_template = template
    began = time.monotonic()
    with pytest.raises(InputError, match="its chat template cannot be used") as error:
        render(TALK, tokenizer, "all")
    assert said in str(error.value) and time.monotonic() - began < 20


def test_a_template_that_changes_what_is_said_reads_all_roles_alone(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    assert render(TALK, tokenizer, "all").text.startswith("DEF ADD")
    with pytest.raises(InputError, match="changes what a message of the user says, 'def add"):
        render(TALK, tokenizer, "user")


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="has no chat template, which a corpus with `messages` needs"):
        ChatEncoder(tokenizer, "all", np.uint16)


# --- as a corpus -------------------------------------------------------------------------------------------


@pytest.fixture
def talks(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"talk": TALK}, {"talk": TALK[:2]}, {"talk": []}]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "talks.parquet")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text((tmp_path / "talks.jsonl").read_text())
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("files", {"files": "talks.jsonl"}),
        ("files", {"files": "talks.parquet"}),
        ("huggingface", {"huggingface": "set"}),
    ],
)
def test_conversations_are_documents(talks, monkeypatch, kind, options):
    monkeypatch.chdir(talks)
    options = {key: f"./{value}" for key, value in options.items()}
    found = [json.loads(one.text or "[]") for one in documents_of(kind, options | {"messages": "talk"})]
    assert found == [TALK, TALK[:2], []]


def study(**corpus):
    return load_study(
        {
            "study": "talks",
            "corpora": {"talks": {"files": "talks.jsonl"} | corpus},
            "tokenizer": {"pretrained": "someone/chat"},
            "models": {"base": {"pretrained": "someone/chat", "train": ["talks"]}},
        }
    )


@pytest.mark.parametrize(
    ("corpus", "allowed"),
    [
        ({"roles": "user"}, "`roles` with `messages` alone"),
        ({"messages": "talk", "text": "body"}, "`messages` without `text`"),
        ({"messages": "talk", "strip_license_headers": True}, "`messages` without `strip_license_headers`"),
        ({"files": "talks.txt", "messages": "talk"}, "no `messages`: plain-text files have no columns"),
        ({"messages": "talk", "roles": "system"}, "'all', 'assistant' or 'user'"),
    ],
)
def test_keys_that_do_not_fit_are_refused(corpus, allowed):
    assert study(messages="talk", roles="assistant").corpora["talks"].messages == "talk"
    with pytest.raises(StudyError) as error:
        study(**corpus)
    assert allowed in str(error.value)


def test_a_tokenizer_that_the_study_trains_has_no_template():
    config = study(messages="talk").model_dump(exclude_unset=True)
    config["tokenizer"] = {"train": ["talks"]}
    with pytest.raises(StudyError, match=r"corpora.talks.messages: found 'talk'; allowed: a corpus of plain `text`"):
        load_study(config)


def test_a_folder_without_a_template_is_refused_at_dry_run(tmp_path):
    config = study(messages="talk").model_dump(exclude_unset=True)
    config["tokenizer"] = {"pretrained": str(tmp_path)}
    found = LocalInputs(load_study(config), Checksums(tmp_path / "checksums.json"))
    with pytest.raises(
        StudyError, match=r"tokenizer.pretrained: found .* has no chat template, and corpora.talks.mess"
    ):
        found.check()
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    found.check()
    (tmp_path / "chat_template.jinja").rename(tmp_path / "other")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    found.check()


# --- as tokens ---------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(tmp_path, tokenizer_dir):
    """A function that encodes conversations, two tokens' shards at most 40 long, and gives the token directory."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_dir, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)

    def encode(roles, talks=(TALK, TALK[:2], TALK[2:])):
        documents = [Document(conversation(list(one), "a", "m"), str(i), None) for i, one in enumerate(talks)]
        write_table(
            tmp_path / "talks.parquet", pa.Table.from_pylist([one._asdict() for one in documents], SCHEMA), SCHEMA, {}
        )
        encode_corpus(
            tmp_path / "talks.parquet", folder, tmp_path / f"tokens-{roles}", {}, shard_tokens=40, roles=roles
        )
        return tmp_path / f"tokens-{roles}"

    return encode


def test_a_corpus_of_conversations_is_tokens_and_who_says_them(encoded, tokenizer):
    expected = list(
        ChatEncoder(tokenizer, "assistant", np.uint16)(json.dumps(one) for one in (TALK, TALK[:2], TALK[2:]))
    )
    ids, chosen = (np.concatenate(parts) for parts in zip(*expected, strict=True))
    folder, everything = encoded("assistant"), encoded("all")
    for length in (3, 8):
        windows, whole = Windows({"talks": folder}, length), Windows({"talks": everything}, length)
        index = np.arange(len(windows))[::-1]
        places = windows.places(index)[1][:, None] + np.arange(length)
        np.testing.assert_array_equal(windows[index], ids[places])
        np.testing.assert_array_equal(windows.kept(index), chosen[places])
        np.testing.assert_array_equal(whole[index], windows[index])
        assert whole.kept(index) is None
    assert len(read_index(folder)["shards"]) > 1
    assert read_table(folder / "documents.parquet")["tokens"].to_pylist() == [len(one.ids) for one in expected]


def test_a_damaged_choice_is_named(encoded):
    folder = encoded("user")
    file = folder / "shard-00000.chosen.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"shard-00000.chosen.npy: damaged"):
        Windows({"talks": folder}, 4)


def test_the_sample_reads_the_chosen_role_alone(encoded):
    folder = encoded("user")
    sample = sample_windows({"talks": folder}, 32, 4, seed=0)
    windows = Windows({"talks": folder}, 4)
    rows = [int(np.flatnonzero((windows[np.arange(len(windows))] == one).all(1))[0]) for one in sample["tokens"]]
    np.testing.assert_array_equal(sample["kept"], windows.kept(np.array(rows)))
    assert 0 < sample["kept"].mean() < 1
