"""A server on loopback that speaks the chat-completions protocol and does what a script tells it, faults included."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from feature_lineage.explanations.client import Endpoint
from feature_lineage.explanations.ledger import Ledger
from feature_lineage.explanations.questions import Malformed, Prompt
from feature_lineage.explanations.service import Service

KEY = "sk-do-not-write-me-down-0123456789"
KEY_ENV = "SCRIPTED_KEY"


def completion(text, prompt_tokens=100, completion_tokens=10, finish="stop", logprobs=None, **changes):
    """The body of a reply."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    choice |= {"logprobs": {"content": logprobs}} if logprobs is not None else {}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"id": "1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage} | changes


def status(code, message="no", kind=None, **headers):
    """A reply that is an error."""
    return {"status": code, "headers": headers, "body": {"error": {"message": message, "type": kind, "code": kind}}}


class Server:
    """What the server was asked (`bodies`, `keys`), how often at once, and how many replies it sent whole (`paid`, by request)."""

    def __init__(self, script):
        self.script = script  # (body, number of the request) -> a completion, or {"status", "drop", "raw", "wait"}
        self.bodies, self.keys, self.paid = [], [], Counter()
        self.now = self.most = 0
        self.lock = threading.Lock()

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.keys.append(handler.headers["authorization"])
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            step = self.script(body, number)
            time.sleep(step.get("wait", 0))
            if step.get("drop"):
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            text = step["raw"] if "raw" in step else json.dumps(step.get("body", step)).encode()
            handler.send_response(step.get("status", 200))
            for name, value in step.get("headers", {}).items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text)
            if "status" not in step:
                with self.lock:
                    self.paid[json.dumps(body, sort_keys=True)] += 1
        except OSError:  # whoever asked is gone
            handler.close_connection = True
        finally:
            with self.lock:
                self.now -= 1


@contextmanager
def serve(script):
    """Run a server; yields it with its address as `url`."""
    server = Server(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            server.answer(self)

        def log_message(self, *arguments):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request, address):
            pass

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/v1"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def service(url, **changes):
    """A service at that address, USD 1 per million tokens of either kind."""
    return Service("scripted", url, KEY_ENV, 1.0, 1.0, None, 1, 4, 5.0)._replace(**changes)


def question(number, limit=50):
    """One of many questions."""
    return Prompt("You count.", f"Say {number}.", limit, 5)


def read_number(reply):
    """What `echo` replies."""
    if not reply.text.isdigit():
        raise Malformed(f"{reply.text!r} is no number")
    return int(reply.text)


def echo(body, number):
    """Reply with the number that a `question` asks for."""
    return completion(body["messages"][1]["content"].split()[1].strip("."))


def ask_many(url, path, count, **changes):
    """Ask `count` questions, as a job does."""
    ledger = Ledger(path)
    endpoint = Endpoint(service(url, **changes), ledger)
    try:
        return endpoint.map(lambda number: endpoint.ask(question(number), read_number), range(count))
    finally:
        ledger.close()
