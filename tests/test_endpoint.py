"""Questions to a language model: what a fault costs, what a kill loses (nothing that arrived), and where the key never is."""

import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from scripted_endpoint import KEY, KEY_ENV, ask_many, completion, echo, question, read_number, serve, service, status

from feature_lineage.errors import InputError, Stopped
from feature_lineage.explanations import completions, transport
from feature_lineage.explanations.client import Endpoint
from feature_lineage.explanations.estimate import Estimate
from feature_lineage.explanations.ledger import Ledger
from feature_lineage.explanations.questions import Reply
from feature_lineage.explanations.requests import THOUGHT_TOKENS, most_prompt_tokens
from feature_lineage.explanations.service import OPENAI, cost


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(transport, "LONGEST_WAIT", 0.05)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "replies.jsonl"


def lines(path, kind):
    return [entry for entry in map(json.loads, path.read_bytes().splitlines()) if kind in entry]


def first(step):
    """The first time that a question is asked something goes wrong; the second time it is answered."""
    seen = set()

    def script(body, number):
        text = body["messages"][1]["content"]
        if text in seen:
            return echo(body, number)
        seen.add(text)
        return step

    return script


def test_answers_come_in_order_in_parallel_and_are_paid_once(path):
    with serve(lambda body, number: echo(body, number) | {"wait": 0.02}) as server:
        answers = ask_many(server.url, path, 40)
        again = ask_many(server.url, path, 40)
    assert [answer.value for answer in answers] == list(range(40))
    assert again == answers
    assert len(server.bodies) == 40 and set(server.paid.values()) == {1}
    assert 1 < server.most <= 4
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert answers[0][2:] == (100, 10, pytest.approx(110e-6))
    assert Ledger(path).spent == pytest.approx(40 * 110e-6)


def test_more_questions_and_another_order_ask_only_what_is_new(path):
    with serve(echo) as server:
        ask_many(server.url, path, 5)
        ask_many(server.url, path, 8, parallel=1, timeout=4.0, budget=1.0)
        assert len(server.bodies) == 8
        ask_many(server.url, path, 8, model="another")
        assert len(server.bodies) == 16


def test_one_question_asked_by_several_at_once_is_paid_once(path):
    with serve(lambda body, number: echo(body, number) | {"wait": 0.05}) as server:
        endpoint = Endpoint(service(server.url), Ledger(path))
        answers = endpoint.map(lambda _: endpoint.ask(question(7), read_number), range(8))
    assert {answer.value for answer in answers} == {7} and len(server.bodies) == 1


UNPAID = [status(429, Retry_After="0.03"), status(429), status(500), status(503, Retry_After="soon")]
LOST = [{"drop": True}, completion("1") | {"wait": 1.5}, status(408), status(502), status(504), status(524)]


@pytest.mark.parametrize(
    "step", UNPAID + LOST, ids=["429 wait", "429", "500", "503", "dropped", "slow", "408", "502", "504", "524"]
)
def test_a_fault_is_tried_again_and_what_may_have_been_billed_counts(path, step):
    with serve(first(step)) as server:
        answers = ask_many(server.url, path, 6, parallel=6, timeout=5.0 if step in UNPAID else 1.0)
    assert [answer.value for answer in answers] == list(range(6))
    assert len(server.bodies) == 12
    assert sum(answer.usd for answer in answers) == pytest.approx(6 * 110e-6)
    lost = 0 if step in UNPAID else sum(cost(service(""), most_prompt_tokens(question(n)), 50) for n in range(6))
    assert Ledger(path).spent == pytest.approx(6 * 110e-6 + lost)


def test_a_storm_of_429_is_waited_for_by_all(path):
    """While the endpoint asks for a pause nobody sends."""
    times = []

    def script(body, number):
        times.append(time.monotonic())
        return status(429, Retry_After="0.4") if number == 0 else echo(body, number)

    with serve(script) as server:
        answers = ask_many(server.url, path, 20, parallel=2)
    assert [answer.value for answer in answers] == list(range(20))
    assert sum(at > times[0] + 0.3 for at in times) >= 18


def test_an_endpoint_that_never_answers_ends_the_job_and_keeps_what_was_paid(path):
    with serve(lambda body, number: echo(body, number) if number < 3 else status(503)) as server:
        with pytest.raises(InputError, match=r"did not answer 8 times in a row.*status 503.*replies\.jsonl"):
            ask_many(server.url, path, 6, parallel=1)
        assert len(server.bodies) == 3 + 8
    assert len(lines(path, "reply")) == 3
    with pytest.raises(InputError, match=r"did not answer.*Connection error"):
        ask_many(server.url, path, 6, parallel=1)
    assert Ledger(path).spent == pytest.approx(3 * 110e-6), "a connection that is refused costs nothing"


@pytest.mark.parametrize(
    "step",
    [
        status(401, f"Incorrect API key provided: {KEY}"),
        status(403),
        status(404, "no such model"),
        status(400, "bad request"),
        status(429, "You exceeded your current quota", "insufficient_quota"),
    ],
    ids=["401", "403", "404", "400", "quota"],
)
def test_a_refusal_ends_the_job_at_once_and_names_the_remedy(path, step, caplog):
    with serve(lambda body, number: echo(body, number) if number < 2 else step) as server:
        with pytest.raises(InputError) as error, caplog.at_level(logging.DEBUG):
            ask_many(server.url, path, 30, parallel=1)
        assert len(server.bodies) == 3
    for part in (server.url, "'scripted'", KEY_ENV, "interpretation.model", str(path)):
        assert part in str(error.value)
    assert KEY not in str(error.value) + caplog.text + path.read_text()
    assert len(lines(path, "reply")) == 2


def test_a_key_that_is_not_set_is_named_before_anything_is_sent(path, monkeypatch):
    monkeypatch.delenv(KEY_ENV)
    with pytest.raises(InputError, match=f"interpretation.key_env.*{KEY_ENV} is not set"):
        ask_many(OPENAI, path, 1)
    with serve(echo) as server:  # an endpoint of one's own may need none
        assert ask_many(server.url, path, 1)[0].value == 0


USAGE = {"prompt_tokens": 20, "completion_tokens": 5}
FAILED = {
    "an error": {"error": {"message": "provider is overloaded", "code": 502}},
    "an error in words": {"error": "provider is overloaded"},
    "an error without a status": {"error": {"message": "provider is overloaded", "code": "server_error"}},
    "an error and no choice": completion("1", choices=[], error={"message": "provider is overloaded", "code": "503"}),
    "an error beside half a text": completion("1", error={"message": "provider is overloaded"}),
    "an error in the choice": completion("1", choices=[{"error": {"message": "provider is overloaded"}}]),
    "words alone": {"message": "provider is overloaded"},
    "a detail": {"detail": "provider is overloaded"},
    "errors": {"success": False, "errors": [{"code": 10000, "message": "provider is overloaded"}]},
    "an error's words": {"error_code": 18, "error_msg": "provider is overloaded"},
    "a status inside": {"base_resp": {"status_code": 1004, "status_msg": "provider is overloaded"}, "choices": None},
    "details": {"detail": [{"loc": ["body"], "msg": "provider is overloaded"}]},
    "words for the choice": completion("1", choices=[{"text": "provider is overloaded"}]),
    "no choices": completion("1", choices=[]),
    "null for choices": completion("1", choices=None),
    "choices missing": {"id": "1", "object": "chat.completion", "usage": USAGE},
    "a choice that is null": completion("1", choices=[None]),
    "no message": completion("1", choices=[{"index": 0, "finish_reason": "stop"}]),
    "a message that is null": completion("1", choices=[{"index": 0, "message": None}]),
    "a message that is text": completion("1", choices=[{"index": 0, "message": "1"}]),
    "null for a text": completion(None),
    "a number for a text": completion(1),
    "a text that ended with an error": completion("1", finish="error"),
    "no text, ended with an error": completion("", finish="error"),
    "half a character at the end": completion(None, finish="\ud800"),
    "a page": {"raw": b"<html>provider is overloaded</html>"},
    "nothing at all": {"raw": b""},
    "no JSON": {"raw": b"provider is overloaded"},
    "a list": {"raw": b"[1]"},
    "a word": {"raw": b'"provider is overloaded"'},
    "half a body": {"raw": b'{"choices": [{"mess'},
    "a stream": {"raw": b'data: {"choices": [{"delta": {"content": "1"}}]}\n\ndata: [DONE]\n\n'},
    "no UTF-8": {"raw": b"\xff\xfe\x00"},
}
DECLINED = {
    "a refusal": completion(
        "1", choices=[{"message": {"content": None, "refusal": "I cannot help with that"}, "finish_reason": "stop"}]
    ),
    "a refusal beside an empty text": completion(
        "1", choices=[{"message": {"content": "", "refusal": "I cannot help with that"}, "finish_reason": "stop"}]
    ),
    "a filter": completion(None, finish="content_filter"),
    "half a text and a filter": completion("1", finish="content_filter"),
    "all its tokens thought": completion(None, finish="length"),
    "an empty text": completion(""),
    "a blank text": completion(" \n"),
    "thoughts and no text": completion(
        "1", choices=[{"message": {"content": "", "reasoning_content": "hm"}, "finish_reason": "stop"}]
    ),
}


def words(step):
    """What the log has to show of it, if it says anything."""
    text = json.dumps(step, default=bytes.decode) if b"\xff" not in step.get("raw", b"") else ""
    return next((said for said in ("provider is overloaded", "I cannot help with that") if said in text), "")


@pytest.mark.parametrize("step", FAILED.values(), ids=FAILED.keys())
def test_a_status_of_200_without_a_usable_reply_is_a_failed_request(path, step, caplog):
    """It is sent again after a pause, never stored as a reply, and the endpoint's words are in the log.

    Other cases of the kind: `FAILED` and `DECLINED`; the same with usage, without, and with usage that cannot be; in the first
    request, in the middle and for ever; under an older ledger.
    """
    with serve(lambda body, number: step if number < 3 else echo(body, number)) as server:
        with caplog.at_level(logging.WARNING):
            answers = ask_many(server.url, path, 2, parallel=1)
        assert ask_many(server.url, path, 2) == answers
        assert len(server.bodies) == 5
    assert [answer.value for answer in answers] == [0, 1]
    assert len(lines(path, "reply")) == 2 and words(step) in caplog.text and "a request failed" in caplog.text
    assert {body["temperature"] for body in server.bodies} == {0}, "the same request, not another attempt"


@pytest.mark.parametrize("step", DECLINED.values(), ids=DECLINED.keys())
def test_a_question_that_a_model_declines_costs_no_other_and_is_not_stored(path, step, caplog):
    declines = True

    def script(body, number):
        return step if declines and "Say 1." in str(body) else echo(body, number)

    with serve(script) as server, caplog.at_level(logging.WARNING):
        answers = ask_many(server.url, path, 3, parallel=1)
        assert len(server.bodies) == 5
        assert [answer.value for answer in answers] == [0, None, 2]
        assert answers[1].reason.startswith("no whole text, 3 times: ") and words(step) in answers[1].reason
        assert words(step) in caplog.text and len(lines(path, "reply")) == 2
        assert answers[1].usd == pytest.approx(3 * 110e-6) and Ledger(path).spent == pytest.approx(5 * 110e-6)
        declines = False
        assert [answer.value for answer in ask_many(server.url, path, 3)] == [0, 1, 2]
        assert len(server.bodies) == 6


@pytest.mark.parametrize("step", FAILED.values(), ids=FAILED.keys())
def test_an_endpoint_that_never_gives_a_usable_reply_ends_the_job(path, step):
    with serve(lambda body, number: step) as server:
        with pytest.raises(InputError, match=r"did not answer 8 times in a row.*replies\.jsonl") as error:
            ask_many(server.url, path, 5, parallel=1)
        assert len(server.bodies) == 8
    assert words(step) in str(error.value) and "\n" not in str(error.value)
    assert not lines(path, "reply")


def test_a_question_that_alone_is_never_answered_costs_itself_alone_three_in_a_row_end_the_job(path):
    step = FAILED["an error"]
    with serve(lambda body, number: step if "Say 2." in str(body) else echo(body, number)) as server:
        answers = ask_many(server.url, path, 5, parallel=1)
        assert len(server.bodies) == 4 + 8
    assert [answer.value for answer in answers] == [0, 1, None, 3, 4]
    assert answers[2].reason.startswith("the endpoint gave no reply, 8 times: ") and words(step) in answers[2].reason
    with serve(lambda body, number: step if number >= 2 else echo(body, number)) as server:
        with pytest.raises(InputError, match="did not answer 8 times in a row"):
            ask_many(server.url, path.with_name("down.jsonl"), 9, parallel=1)
        assert len(server.bodies) == 2 + 3 * 8


@pytest.mark.parametrize("code", [400, 401, 403, 404, "401"])
def test_an_error_with_status_200_that_names_a_refusal_is_one(path, code):
    with serve(lambda body, number: {"error": {"message": "no such key", "code": code}}) as server:
        with pytest.raises(InputError, match=r"refuses requests for model.*no such key"):
            ask_many(server.url, path, 5, parallel=1)
        assert len(server.bodies) == 1
    assert Ledger(path).spent == 0


def test_what_a_failed_request_bills_counts_and_what_it_does_not_say_counts_as_the_most(path):
    worst = cost(service(""), most_prompt_tokens(question(0)), 50)
    error = {"error": {"message": "late", "code": 502}}
    for number, (step, each) in enumerate(
        (
            (error | {"usage": USAGE}, 25e-6),
            (completion(None, 20, 5), 25e-6),
            (error, worst),
            ({"error": {"message": "soon", "code": 429}}, 0),
            ({"raw": b'{"choices": [{"mess'}, worst),
            (error | {"usage": {"prompt_tokens": -1, "completion_tokens": 10**30}}, worst),
        )
    ):
        ledger = path.with_name(f"{number}.jsonl")
        with serve(lambda body, number, step=step: step if number < 2 else echo(body, number)) as server:
            (answer,) = ask_many(server.url, ledger, 1)
            ask_many(server.url, ledger, 1)
            assert len(server.bodies) == 3 and answer.value == 0
        assert Ledger(ledger).spent == pytest.approx(2 * each + 110e-6)
        stated = "usage" in step and each < worst
        assert answer.usd == pytest.approx((2 * each if stated else 0) + 110e-6), (
            "what was billed, as far as it was said"
        )
    with serve(lambda body, number: error | {"usage": USAGE}) as server:
        path = path.parent / "budget" / path.name
        (answer,) = ask_many(server.url, path, 1, budget=worst + 30e-6)
        assert len(server.bodies) == 2 and answer.reason == "interpretation.budget_usd is spent"
        assert Ledger(path).spent == pytest.approx(50e-6)


def test_failed_requests_that_an_older_ledger_holds_as_replies_are_asked_again(path):
    """They were paid, and go on counting; they are no replies. The older version wrote `text: null` for all that it could not read."""
    with serve(echo) as server:
        endpoint = Endpoint(service(server.url), Ledger(path))
        for number, (text, finish) in enumerate(((None, "unreadable"), (None, "content_filter"), ("1", "error"))):
            digest = endpoint.requests.next(question(number), 0).digest
            endpoint.ledger.write({"asked": digest, "usd": 1e-3})
            entry = completions._entry(digest, 5e-4, "scripted") | {"text": text, "finish": finish}
            endpoint.ledger.write(entry)
        endpoint.ledger.close()
        answers = ask_many(server.url, path, 3)
        assert [answer.value for answer in answers] == [0, 1, 2] and len(server.bodies) == 3
        assert answers == ask_many(server.url, path, 3) and len(server.bodies) == 3
    assert Ledger(path).spent == pytest.approx(3 * (5e-4 + 110e-6)) == sum(answer.usd for answer in answers)


def test_a_text_in_parts_is_a_text(path):
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}, {"type": "text", "text": "2"}]
    with serve(lambda body, number: completion(parts)) as server:
        assert ask_many(server.url, path, 1)[0].value == 42


def test_an_endpoint_that_bills_more_than_was_asked_for_is_asked_nothing_more(path):
    """A reply longer than `max_tokens`, or a prompt of more tokens than bytes: no budget can be kept with such bills.

    The same of a failed request. Where there is no budget, nothing is overrun.
    """
    greedy = completion("0", 30, 400)
    for number, step in enumerate((greedy, completion("0", 4000, 1), completion(None, 30, 400))):
        ledger = path.with_name(f"{number}.jsonl")
        with serve(lambda body, number, step=step: step) as server:
            with pytest.raises(InputError, match=r"billed USD 0\.00.*limited to 50 tokens.*budget_usd.*max_tokens"):
                ask_many(server.url, ledger, 30, parallel=1, budget=1.0)
            assert len(server.bodies) == 1
        assert Ledger(ledger).spent > cost(service(""), most_prompt_tokens(question(0)), 50)
    with serve(lambda body, number: greedy) as server:
        assert [answer.value for answer in ask_many(server.url, path, 3)] == [0, 0, 0]


GARBAGE = {
    "cut off": completion("1", finish="length"),
    "words": completion("about seven"),
    "half a character": completion("7\ud800"),
}


@pytest.mark.parametrize("step", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_malformed_reply_is_paid_stored_and_asked_again_three_times_at_most(path, step):
    with serve(lambda body, number: step) as server:
        (answer,) = ask_many(server.url, path, 1)
        assert ask_many(server.url, path, 1) == [answer]
        assert len(server.bodies) == 3
    assert answer.value is None and answer.reason.startswith("malformed reply, 3 times: ")
    assert answer.reason.encode()
    assert [body["temperature"] for body in server.bodies] == [0, 0.5, 1]
    assert len(lines(path, "reply")) == 3 and answer.usd == pytest.approx(Ledger(path).spent) and answer.usd > 0


def test_a_malformed_reply_followed_by_a_good_one_is_an_answer_that_cost_both(path):
    with serve(first(completion("seven"))) as server:
        answers = ask_many(server.url, path, 4)
    assert [answer.value for answer in answers] == [0, 1, 2, 3] and len(server.bodies) == 8
    assert {answer.prompt_tokens for answer in answers} == {200}


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation", "invalid_prompt"])
def test_a_prompt_that_is_refused_is_asked_once_costs_nothing_and_stops_no_other(path, code):
    def script(body, number):
        return status(400, "not this one", code) if "Say 1." in str(body) else echo(body, number)

    with serve(script) as server:
        answers = ask_many(server.url, path, 3)
        assert ask_many(server.url, path, 3) == answers
        assert len(server.bodies) == 3
    assert [answer.value for answer in answers] == [0, None, 2]
    assert answers[1] == (None, f"the endpoint refuses the prompt: {code}", 0, 0, 0.0)
    assert Ledger(path).spent == pytest.approx(2 * 110e-6)


def test_text_in_an_older_ledger_that_cannot_be_written_down_is_asked_again(path):
    """Explanations are parts of other prompts, which are counted in bytes."""
    with serve(first(completion("7\ud800"))) as server:
        endpoint = Endpoint(service(server.url), Ledger(path))
        texts = [endpoint.ask(question(7), lambda reply: reply.text).value for _ in range(2)]
        assert texts == ["7", "7"] and len(server.bodies) == 2


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many"}, {"prompt_tokens": -5, "completion_tokens": 1}])
def test_a_reply_without_its_usage_counts_as_the_most_it_can_cost(path, usage):
    with serve(lambda body, number: echo(body, number) | {"usage": usage}) as server:
        (answer,) = ask_many(server.url, path, 1)
    assert answer.value == 0
    assert answer.usd == pytest.approx(cost(service(""), most_prompt_tokens(question(0)), 50))


def test_thoughts_that_only_the_total_counts_are_billed(path):
    """Gemini's usage; a total that is missing, null, too small or no number changes nothing."""
    for number, (total, billed) in enumerate([(140, 40), (110, 10), (90, 10), (None, 10)]):
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": total}
        with serve(lambda body, number, usage=usage: echo(body, number) | {"usage": usage}) as server:
            (answer,) = ask_many(server.url, path.with_name(f"{number}.jsonl"), 1)
        assert answer[2:] == (100, billed, pytest.approx((100 + billed) * 1e-6))


def test_the_budget_is_never_exceeded_even_if_every_reply_costs_the_most(path):
    worst = cost(service(""), most_prompt_tokens(question(0)), 50)
    full = {"prompt_tokens": most_prompt_tokens(question(0)), "completion_tokens": 50}
    with serve(lambda body, number: echo(body, number) | {"usage": full, "wait": 0.01}) as server:
        answers = ask_many(server.url, path, 10, budget=4.5 * worst)
        ask_many(server.url, path, 10, budget=4.5 * worst)
        assert len(server.bodies) == 4
        assert Ledger(path).spent == pytest.approx(4 * worst)
        assert [answer.reason for answer in answers].count("interpretation.budget_usd is spent") == 6
        assert sum(a.value is not None for a in ask_many(server.url, path, 10, budget=7.5 * worst)) == 7
        assert len(server.bodies) == 7


def test_cheap_replies_free_what_was_set_aside_for_them(path):
    worst = cost(service(""), most_prompt_tokens(question(0)), 50)
    with serve(lambda body, number: completion("1", 1, 1) | {"wait": 0.01}) as server:
        answers = ask_many(server.url, path, 9, budget=1.5 * worst)
    assert all(answer.value == 1 for answer in answers) and server.most == 1


def test_the_budget_holds_for_all_ledgers_those_of_models_that_are_gone_too(tmp_path):
    """Four models spend nearly all of it; of four more each has a share, but there is nothing left to share."""
    worst = cost(service(""), most_prompt_tokens(question(0)), 50)
    full = {"prompt_tokens": most_prompt_tokens(question(0)), "completion_tokens": 50}
    with serve(lambda body, number: echo(body, number) | {"usage": full}) as server:
        for model in range(4):
            ask_many(server.url, tmp_path / f"{model}.jsonl", 9, budget=17.5 * worst, jobs=4)
        assert len(server.bodies) == 16
        for model in range(2, 8):
            ask_many(server.url, tmp_path / f"{model}.jsonl", 9, budget=17.5 * worst, jobs=6)
        assert len(server.bodies) == 17
    ledgers = [Ledger(path) for path in tmp_path.glob("*.jsonl")]
    assert sum(ledger.spent for ledger in ledgers) == pytest.approx(17 * worst)


def test_another_jobs_ledger_is_read_while_it_is_written_and_a_damaged_one_is_named(path):
    other = path.with_name("other.jsonl")
    ledger = Ledger(other)
    ledger.write({"asked": "x", "usd": 1.0})
    with other.open("ab") as file:
        file.write(b'{"asked": "y", "us')
    before = other.read_bytes()
    assert Endpoint(service("", budget=3.0, jobs=2), Ledger(path)).budget.limit == pytest.approx(1.5)
    assert Endpoint(service("", budget=1.75), Ledger(path.with_name("third.jsonl"))).budget.limit == pytest.approx(0.75)
    assert other.read_bytes() == before
    ledger.close()
    other.write_bytes(b"{broken\n")
    with pytest.raises(InputError, match=r"other\.jsonl: line 1 is damaged"):
        Endpoint(service("", budget=3.0), Ledger(path.with_name("fourth.jsonl")))


# --- log-probabilities -------------------------------------------------------------------------------------


def ask_logprobs(server, path):
    return Endpoint(service(server.url), Ledger(path)).ask(question(3)._replace(logprobs=True), lambda reply: reply)


def test_numbers_among_the_alternatives_are_kept(path):
    top = [{"token": " 3", "logprob": -0.1}, {"token": "4", "logprob": -2.5}, {"token": "x", "logprob": -4}]
    with serve(lambda body, number: completion("3", logprobs=[{"token": "3", "top_logprobs": top}])) as server:
        found = ask_logprobs(server, path).value
    assert found == Reply("3", [("3", {"3": -0.1, "4": -2.5})])
    assert (server.bodies[0]["logprobs"], server.bodies[0]["top_logprobs"]) == (True, 20)


@pytest.mark.parametrize("logprobs", [None, [{"token": "other", "top_logprobs": []}], [{"token": None}], [3]])
def test_log_probabilities_that_are_missing_or_do_not_fit_are_left_out(path, logprobs):
    with serve(lambda body, number: completion("3", logprobs=logprobs)) as server:
        assert ask_logprobs(server, path).value == Reply("3", [])


def test_an_endpoint_that_refuses_log_probabilities_is_asked_without(path):
    def script(body, number):
        return status(400, "logprobs are not supported") if "logprobs" in body else echo(body, number)

    with serve(script) as server:
        assert ask_logprobs(server, path).value == Reply("3", [])
        endpoint = Endpoint(service(server.url), Ledger(path.with_name("other.jsonl")))
        for number in range(3):
            endpoint.ask(question(number)._replace(logprobs=True), lambda reply: reply)
        assert len(server.bodies) == 2 + 4
        ledger = path.read_bytes()
        endpoint = Endpoint(service(server.url), Ledger(path))
        endpoint.ask(question(3)._replace(logprobs=True), lambda reply: reply)
        assert len(server.bodies) == 6 and path.read_bytes() == ledger


def reasoner(body, number):
    """A model that refuses what reasoning models do, one thing at a time, in the words of the API."""
    if "max_tokens" in body:
        return status(400, "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
    if body.get("temperature", 1) != 1:
        return status(400, "'temperature' does not support 0 with this model. Only the default (1) value is supported.")
    if "logprobs" in body:
        return status(400, "You are not allowed to request logprobs from this model")
    return echo(body, number)


def test_a_reasoning_model_is_asked_without_what_it_refuses_and_has_room_to_think(path):
    with serve(reasoner) as server:
        endpoint = Endpoint(service(server.url), Ledger(path))
        for _ in range(2):
            assert endpoint.ask(question(3)._replace(logprobs=True), lambda reply: reply).value == Reply("3", [])
            assert len(server.bodies) == 4
    assert server.bodies[-1].keys() == {"model", "messages", "max_completion_tokens"}
    assert server.bodies[-1]["max_completion_tokens"] == 50 + THOUGHT_TOKENS
    assert endpoint.ledger.spent == pytest.approx(110e-6)
    asked = lines(path, "asked")[-1]
    assert asked["usd"] == pytest.approx(cost(service(""), most_prompt_tokens(question(3)), 50 + THOUGHT_TOKENS))


def test_attempts_without_a_temperature_are_still_three(path):
    def script(body, number):
        reply = reasoner(body, number)
        return reply if "status" in reply or number == 4 else completion("three")

    with serve(script) as server:
        (answer,) = ask_many(server.url, path, 1, parallel=1)
        assert ask_many(server.url, path, 1) == [answer]
        assert len(server.bodies) == 5
    assert answer.value == 0 and answer.prompt_tokens == 300


# --- the estimate ------------------------------------------------------------------------------------------


def test_the_estimate_counts_what_is_not_stored_and_refuses_before_the_first_request(path, caplog):
    with serve(echo) as server:
        ask_many(server.url, path, 3)
        ledger = Ledger(path)
        for count, budget in ((3, 1e-9), (10, 1e-3)):
            estimate = Estimate(Endpoint(service(server.url, budget=budget), ledger))
            answers = [estimate.ask(question(number), read_number, -1) for number in range(count)]
            assert [answer.value for answer in answers] == [0, 1, 2] + [-1] * (count - 3)
            assert estimate.requests == count - 3
            assert estimate.usd == pytest.approx((estimate.prompt_tokens + 5 * (count - 3)) / 1e6)
            with caplog.at_level(logging.INFO):
                estimate.check()  # all is paid already, or the budget is enough
            assert "estimate: " in caplog.text
        estimate = Estimate(Endpoint(service(server.url, budget=4e-4), ledger))
        for number in range(10):
            estimate.ask(question(number), read_number, -1)
        with pytest.raises(
            InputError, match=r"interpretation\.budget_usd: 7 requests.*interpretation\.features.*nothing"
        ):
            estimate.check()
        assert len(server.bodies) == 3


def test_an_estimate_that_as_much_for_each_model_would_exceed_is_refused_by_the_first(path, caplog):
    endpoint = Endpoint(service("", budget=1.2e-3, jobs=8), Ledger(path))
    estimate = Estimate(endpoint)
    for number in range(10):
        estimate.ask(question(number), read_number, -1)
    assert estimate.usd < 1.2e-3 < 8 * estimate.usd
    with pytest.raises(InputError, match=r"10 requests.*× 8 models.*8 models share equally.*nothing was sent"):
        estimate.check()
    with caplog.at_level(logging.INFO):
        roomy = Estimate(endpoint)
        roomy.ask(question(0), read_number, -1)
        roomy.check()
    assert f"(× 8 models, USD {8 * roomy.usd:.2f})" in caplog.text


# --- the ledger --------------------------------------------------------------------------------------------


def test_a_ledger_cut_anywhere_keeps_all_whole_lines(path):
    with serve(echo) as server:
        ask_many(server.url, path, 3, parallel=1)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 11):
        path.write_bytes(whole[:cut])
        ledger = Ledger(path)
        kept = whole[:cut].rfind(b"\n") + 1
        assert path.read_bytes() == whole[:kept]
        assert len(ledger._account.places) == whole[:kept].count(b'{"reply"')
        ledger.write({"asked": "x", "usd": 1.0})
        ledger.close()
        assert Ledger(path).spent >= 1


def test_a_damaged_line_is_named_and_two_jobs_do_not_share_a_ledger(path):
    ledger = Ledger(path)
    ledger.write({"asked": "x", "usd": 1.0})
    with pytest.raises(InputError, match=r"replies\.jsonl: another job"):
        Ledger(path)
    ledger.close()
    path.write_text(path.read_text() + "{broken\n" + path.read_text())
    with pytest.raises(InputError, match=r"replies\.jsonl: line 2 is damaged"):
        Ledger(path)


def test_a_full_disk_leaves_no_part_of_a_line(path, monkeypatch):
    ledger = Ledger(path)
    ledger.write({"asked": "x", "usd": 1.0})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"replies\.jsonl: the disk is full"):
            ledger.write({"unpaid": "x"})
    assert len(path.read_text().splitlines()) == 1
    ledger.write({"unpaid": "x"})
    ledger.close()
    assert Ledger(path).spent == 0


def test_asked_to_stop_the_job_keeps_the_replies_under_way(path):
    def script(body, number):
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return echo(body, number) | {"wait": 0.05}

    with serve(script) as server:
        with pytest.raises(Stopped, match="replies so far are kept"):
            ask_many(server.url, path, 400)
        assert len(server.bodies) == len(lines(path, "reply")) < 100


def test_killed_at_random_points_nothing_that_arrived_is_lost_or_asked_again(path):
    """A reply is paid and received once its line is in the ledger; one that was under way at the kill may be asked again."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    points, count, parallel = random.Random(seed), 400, 4
    jobs = multiprocessing.get_context("forkserver")
    jobs.set_forkserver_preload(["feature_lineage.explanations.client", "scripted_endpoint"])
    rounds = []
    with serve(lambda body, number: echo(body, number) | {"wait": 0.005}) as server:
        for _ in range(8):
            job = jobs.Process(target=ask_many, args=(server.url, path, count), kwargs={"parallel": parallel})
            before = len(server.bodies)
            job.start()
            while len(server.bodies) == before:
                time.sleep(0.002)
            time.sleep(points.uniform(0, 0.1))
            job.kill()
            job.join()
            text = path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1].decode().splitlines()
            stored = {entry["reply"] for entry in map(json.loads, whole) if "reply" in entry}
            rounds.append((stored, len(server.bodies)))
        answers = ask_many(server.url, path, count, parallel=parallel)
    assert [answer.value for answer in answers] == list(range(count))
    assert 0 < len(rounds[-1][0]) < count, "killed before or after all of it: no test"
    digest = Endpoint(service(server.url), Ledger(path)).requests.digest
    digests = [digest(body, 0) for body in server.bodies]
    for stored, sent in rounds:
        assert not stored & set(digests[sent:]), "a reply that was stored was asked again"
    assert stored <= {entry["reply"] for entry in lines(path, "reply")}
    assert len(lines(path, "reply")) == count, "each reply is stored once"
    assert len(digests) - count <= parallel * len(rounds)
    asked_again = len(digests) - count
    print(f"{asked_again} requests under way at {len(rounds)} kills were asked again")


# --- another's server --------------------------------------------------------------------------------------


def test_the_server_of_transformers_is_understood(path, tiny_model, tokenizer_dir, tmp_path):
    """It runs a random model: what comes back is nonsense, but comes back by the protocol, with its usage."""
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        pytest.skip("`transformers serve` needs fastapi and uvicorn, which are not installed")
    from feature_lineage.models.checkpoint import save_model
    from feature_lineage.text.tokenizer import load_tokenizer

    folder, home = tmp_path / "model", tmp_path / "home"
    save_model(tiny_model(), tokenizer_dir, folder, {})
    tokenizer = load_tokenizer(tokenizer_dir)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    (home / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        folder,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (tmp_path / "server.txt").open("w") as output:
        server = subprocess.Popen(
            [*command, "--device", "cpu"], env=os.environ | {"HF_HOME": str(home)}, stdout=output, stderr=output
        )
        try:
            while "Application startup complete" not in (tmp_path / "server.txt").read_text():
                assert server.poll() is None, (tmp_path / "server.txt").read_text()
                time.sleep(0.1)
            place = service(f"http://127.0.0.1:{port}/v1", model=str(folder), timeout=60.0, parallel=1)
            endpoint = Endpoint(place, Ledger(path))
            (answer,) = endpoint.map(lambda n: endpoint.ask(question(n, limit=8), lambda reply: reply.text), [1])
        finally:
            server.kill()
            server.wait()
    assert answer.prompt_tokens > 0 and 0 < answer.completion_tokens <= 3 * 8
    assert all(
        isinstance(entry["text"], str) and entry["finish"] in ("length", "stop") for entry in lines(path, "reply")
    )
    assert answer.usd == pytest.approx(endpoint.ledger.spent)
