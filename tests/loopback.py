"""A chat server on this machine's own address that answers as a test wants, well or badly."""

import contextlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEMPLATE = "{{ persona.name }}|{{ prompt }}|{{ response }}"
"""Questions by which the server knows who asks about what."""


class ChatServer(ThreadingHTTPServer):
    """Answers a question `persona|prompt|response` by what `manners` has for the persona.

    Manners are text to answer with, or a function of the handler and of how often the question came before, which
    returns text or sends something itself and returns `None`.
    """

    daemon_threads = True
    request_queue_size = 128  # the usual 5 turns connections away when many clients come at once
    block_on_close = False

    def __init__(self, manners):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.manners = manners
        self.requests = []  # (path, headers, body)
        self.times = Counter()  # by question
        self.over = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def asked(self):
        """The questions, in the order in which they came."""
        return [body["messages"][0]["content"] for _, _, body in self.requests]

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            before = self.server.times[question]
            self.server.times[question] += 1
        self.question = question
        manner = self.server.manners[question.split("|")[0]]
        text = manner(self, before) if callable(manner) else manner
        if text is not None:
            self.say({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})

    def do_GET(self):
        """Nobody asks this way but who follows a redirect."""
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), None))
        self.say({})

    def say(self, value, status=200, **headers):
        """Send a status with a JSON value, or with bytes as they are."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, content in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), content)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""


@contextlib.contextmanager
def chat_server(**manners):
    """A running server; `chat_server(ann="good")` answers everything that Ann is asked with "good"."""
    server = ChatServer(manners)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def then(first, text):
    """First a status, then an answer."""
    return lambda handler, before: text if before else handler.say({"error": "later"}, first, Retry_After="0")


def status(code, said=b"no", **headers):
    """Always a status."""
    return lambda handler, before: handler.say(said, code, **headers)


def hang(handler, before):
    """No answer until the test is over."""
    handler.server.over.wait(20)
    handler.close_connection = True


def dribble(handler, before):
    """A byte now and then, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.05):
        handler.wfile.write(b" ")


def hang_up(handler, before):
    """Nothing at all."""
    handler.close_connection = True


def half(handler, before):
    """The first bytes of an answer, and nothing after them."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True
