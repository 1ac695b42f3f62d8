"""The client of chat endpoints against a server on this machine that answers well and badly."""

import threading

import pytest

from loopback import chat_server, dribble, half, hang, hang_up, status, then
from pluralign.core.errors import PluralignError
from pluralign.personas.chat_endpoint import KEY_VARIABLE, Endpoint, ask_all, completions_url, key_from_environment


class Waits(threading.Event):
    """Notes how long was to be waited, and waits not at all."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        return self.is_set()


def asked(manner, **options):
    """What comes of one question, how often it was put, and the waits between."""
    with chat_server(ann=manner) as server:
        endpoint = Endpoint(completions_url(server.url), "tiny", **{"timeout": 10, "retries": 2, **options})
        waits = Waits()
        return endpoint.ask("ann|?", 7, waits), server.requests, waits.seconds


def test_a_question_is_put_as_the_interface_says():
    reply, requests, waits = asked("\u00fcber", temperature=0.5, max_new_tokens=9)
    assert (reply.text, reply.failure, reply.refused, waits) == ("\u00fcber", None, False, [])
    ((path, headers, body),) = requests
    assert path == "/v1/chat/completions"
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers
    assert body == {
        "model": "tiny", "messages": [{"role": "user", "content": "ann|?"}], "temperature": 0.5, "max_tokens": 9, "seed": 7,
    }  # fmt: skip


@pytest.mark.parametrize("code", [429, 500, 502, 503])
def test_busy_and_broken_servers_are_asked_again(code):
    reply, requests, waits = asked(then(code, "good"))
    assert (reply.text, len(requests), waits) == ("good", 2, [0.5])


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_what_the_server_refuses_is_not_asked_again(code):
    reply, requests, _ = asked(status(code, b"why not"))
    assert (reply.text, reply.failure, reply.detail, len(requests)) == (
        None,
        "http-error",
        f"HTTP {code}: why not",
        1,
    )
    assert reply.final == (code in (401, 404))


def test_waits_double_and_a_server_may_ask_for_more_up_to_a_minute():
    reply, requests, waits = asked(status(503), retries=4)
    assert (reply.failure, len(requests), waits) == ("http-error", 5, [0.5, 1.0, 2.0, 4.0])
    assert asked(status(429, Retry_After="3"), retries=3)[2] == [3.0, 3.0, 3.0]
    assert asked(status(429, Retry_After="9999"), retries=1)[2] == [60.0]
    assert asked(status(429, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), retries=1)[2] == [0.5]


@pytest.mark.parametrize(
    ("manner", "failure"),
    [(hang, "time-out"), (dribble, "time-out"), (hang_up, "connection"), (half, "connection")],
    ids=["hangs", "dribbles", "hangs up", "stops half-way"],
)
def test_silence_and_lost_connections_are_tried_again_and_named(manner, failure):
    reply, requests, _ = asked(manner, retries=1, timeout=0.3)
    assert (reply.text, reply.failure, len(requests)) == (None, failure, 2)
    assert reply.detail
    assert not reply.final


def test_nobody_at_home():
    with chat_server(ann="good") as server:
        url = completions_url(server.url)
    reply = Endpoint(url, "tiny", retries=1).ask("ann|?", 0, Waits())
    assert (reply.failure, reply.final) == ("connection", False)
    assert "refused" in reply.detail


@pytest.mark.parametrize(
    "said",
    [
        b"<html>welcome</html>", b"", b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": [1]}}]}', b"\xff\xfe", b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_completion_is_an_error_and_no_answer(said):
    reply, requests, _ = asked(status(200, said))
    assert (reply.text, reply.failure, len(requests)) == (None, "http-error", 1)
    assert reply.detail.startswith("no chat completion: ")


def test_answers_without_text_and_marked_refusals():
    def say(message):
        return lambda handler, before: handler.say({"choices": [{"message": message}]})

    assert asked(say({"content": None}))[0].text == ""
    assert asked(say({}))[0].text == ""
    reply = asked(say({"content": None, "refusal": "No."}))[0]
    assert (reply.text, reply.refused) == ("No.", True)
    assert asked(say({"content": "\ud800x"}))[0].text == "?x"  # half a sign, which no file can hold


def test_the_key_is_sent_and_never_told(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, " sk-secret ")
    key = key_from_environment()
    repeat = lambda handler, before: handler.say(handler.headers["Authorization"].encode(), 400)  # noqa: E731
    reply, requests, _ = asked(repeat, key=key)
    assert requests[0][1]["Authorization"] == "Bearer sk-secret"
    assert reply.detail == "HTTP 400: Bearer ***"
    assert asked(lambda handler, before: handler.headers["Authorization"], key=key)[0].text == "Bearer ***"
    assert "secret" not in repr(Endpoint("http://a/v1/chat/completions", "tiny", key=key))
    for bad in ("two words", "line\nbreak", "schl\u00fcssel"):
        monkeypatch.setenv(KEY_VARIABLE, bad)
        with pytest.raises(PluralignError) as complaint:
            key_from_environment()
        assert bad not in str(complaint.value)
    monkeypatch.setenv(KEY_VARIABLE, "")
    assert key_from_environment() is None


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(code):
    with chat_server(ann="good") as other:
        reply, requests, _ = asked(status(code, Location=f"{other.url}/v1/chat/completions"), key="sk-secret")
        assert (reply.failure, len(requests), other.requests) == ("http-error", 1, [])
        assert f"redirect to {other.url}" in reply.detail


def test_this_machine_is_asked_without_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert asked("good")[0].text == "good"


def test_no_more_tries_once_it_is_over():
    with chat_server(ann=status(500)) as server:
        stop = Waits()
        stop.set()
        Endpoint(completions_url(server.url), "tiny", retries=5).ask("ann|?", 0, stop)
        assert len(server.requests) == 1


def test_so_many_at_once_and_no_more():
    now, most, lock = [0], [0], threading.Lock()
    together = threading.Barrier(3)

    def answer(handler, before):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait(10)  # comes to an end only when three are here
        with lock:
            now[0] -= 1
        return handler.question

    with chat_server(ann=answer) as server:
        endpoint = Endpoint(completions_url(server.url), "tiny", timeout=20)
        questions = [f"ann|{number}" for number in range(12)]
        replies = dict(ask_all(endpoint, questions, lambda text: text, len, 3))
    assert {text: reply.text for text, reply in replies.items()} == {text: text for text in questions}
    assert most[0] == 3


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://[::1]:8000/", "http://[::1]:8000/v1/chat/completions"),
        ("https://example.org/v1/", "https://example.org/v1/chat/completions"),
        ("https://example.org/a/v1/chat/completions", "https://example.org/a/v1/chat/completions"),
    ],
)
def test_addresses_are_completed(given, url):
    assert completions_url(given) == url


@pytest.mark.parametrize(
    "given",
    [
        "",
        "localhost:8000",
        "ftp://example.org",
        "file:///etc/passwd",
        "http://",
        "http://a:b",
        "http://a b/v1",
        "http://[1",
    ],
)
def test_what_is_no_address_is_refused(given):
    with pytest.raises(PluralignError, match=r"endpoint: found .*, expected an address like"):
        completions_url(given)


@pytest.mark.parametrize("given", ["http://me:sk-secret@a/v1", "http://a/v1?key=sk-secret", "http://a/v1#sk-secret"])
def test_secrets_in_an_address_are_refused_and_not_repeated(given):
    with pytest.raises(PluralignError, match="a key goes to PLURALIGN_API_KEY") as complaint:
        completions_url(given)
    assert "secret" not in str(complaint.value)
