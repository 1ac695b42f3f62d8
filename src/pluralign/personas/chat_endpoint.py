"""A client for chat models behind an OpenAI-compatible address, with the standard library only."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from pluralign.core.errors import PluralignError, one_line

KEY_VARIABLE = "PLURALIGN_API_KEY"
"""The environment variable whose value is sent as the bearer token, if it is set."""

Failure = Literal["time-out", "http-error", "connection"]

_LONGEST_WAIT = 60.0  # seconds between two attempts, even if a server asks for more
_MOST_BYTES = 4 * 2**20  # size limit of a server's answer
_FINAL = (401, 404)  # a missing or wrong key, address or model: every question will fail

Question = TypeVar("Question")


@dataclass(frozen=True)
class Reply:
    """The outcome of a question."""

    text: str | None  # the answer of the model, or `None` if there is none
    refused: bool = False  # whether the server marked the text as a refusal
    failure: Failure | None = None  # why there is no answer
    detail: str = ""  # an explanation of the failure; never contains the key
    final: bool = False  # whether every other question would fail in the same way
    of_question: bool = False  # whether the server rejected this question (other statuses 4xx except 429)


@dataclass(frozen=True)
class Endpoint:
    """An address that serves chat completions, and the options of requests.

    Args:
        url: the address of the chat completions, as `completions_url` returns it.
        model: the name of the model there.
        temperature: sampling temperature.
        max_new_tokens: the longest answer, `max_tokens` of the request.
        timeout: seconds to wait for a connection, for the next bytes of the server, and for a whole answer from its
            first bytes on.
        retries: further attempts after a time-out, a lost connection, or the status 429 or 5xx.
        back_off: seconds before the first further attempt, doubled before each next one. If the server asks for more
            (`Retry-After`), the client waits that long, up to a minute.
        key: the bearer token, or `None`.
    """

    url: str
    model: str
    temperature: float = 1.0
    max_new_tokens: int = 64
    timeout: float = 60.0
    retries: int = 3
    back_off: float = 0.5
    key: str | None = field(default=None, repr=False)

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        # A redirect would send the key and the data to an address that the user did not give.
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if _is_loopback(self.url):
            handlers.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*handlers)

    def ask(self, question: str, seed: int, stop: threading.Event) -> Reply:
        """Ask one question, with up to `retries` further attempts.

        Args:
            question: the message of the user.
            seed: random seed; servers that support it sample the same answer again.
            stop: no further attempts once it is set.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
            "seed": seed,
        }
        return self._sent(body, self._read, stop)

    def post(self, body: Mapping[str, Any], stop: threading.Event) -> Reply:
        """Send any JSON body with the model's name, as `ask` sends a question; the reply's text is the JSON answer.

        Args:
            body: without `model`.
            stop: no further attempts once it is set.
        """
        return self._sent({"model": self.model, **body}, self._read_json, stop)

    def _sent(self, body: Mapping[str, Any], read: Callable[[bytes], Reply], stop: threading.Event) -> Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        for attempt in range(self.retries + 1):
            reply, again, retry_after = self._try(request, read)
            if not again or attempt == self.retries:
                break
            if stop.wait(min(max(self.back_off * 2**attempt, retry_after), _LONGEST_WAIT)):
                break
        return reply

    def _try(self, request: urllib.request.Request, read: Callable[[bytes], Reply]) -> tuple[Reply, bool, float]:
        """One attempt: the reply, whether another attempt may help, and the seconds that the server asks to wait."""
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return read(self._body(response)), False, 0.0
        except urllib.error.HTTPError as fault:
            again = fault.code == 429 or fault.code >= 500
            return self._status(fault), again, _seconds(fault.headers.get("Retry-After"))
        except (OSError, http.client.HTTPException, UnicodeError) as fault:
            # Faults of opening are wrapped, faults of reading are not.
            cause = fault.reason if isinstance(fault, urllib.error.URLError) else fault
            if isinstance(cause, TimeoutError):
                return Reply(None, failure="time-out", detail=f"no answer in {self.timeout:g} s"), True, 0.0
            shown = self._scrubbed(f"{type(cause).__name__}: {cause}")
            return Reply(None, failure="connection", detail=shown), True, 0.0

    def _body(self, response: Any) -> bytes:
        end = time.monotonic() + self.timeout  # also for a server that sends a byte now and then
        parts, size = [], 0
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                raise http.client.HTTPException(f"the answer is longer than {_MOST_BYTES} bytes")
            if time.monotonic() > end:
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    def _status(self, fault: urllib.error.HTTPError) -> Reply:
        try:
            body = fault.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            body = ""  # the status is enough
        where = f" (redirect to {fault.headers.get('Location')}, not followed)" if 300 <= fault.code < 400 else ""
        detail = self._scrubbed(f"HTTP {fault.code}{where}: {body.strip() or fault.reason}")
        final = fault.code in _FINAL
        of_question = 400 <= fault.code < 500 and fault.code != 429 and not final
        return Reply(None, failure="http-error", detail=detail, final=final, of_question=of_question)

    def _read(self, data: bytes) -> Reply:
        try:
            message = json.loads(data)["choices"][0]["message"]
            content, refusal = message.get("content"), message.get("refusal")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            message = content = refusal = None
        if isinstance(refusal, str) and refusal.strip() and not content:
            return Reply(self._scrubbed(refusal), refused=True)
        if message is not None and (content is None or isinstance(content, str)):
            return Reply(self._scrubbed(content or ""))
        shown = one_line(data[:500].decode("utf-8", "replace"), 500)
        return Reply(None, failure="http-error", detail=self._scrubbed(f"no chat completion: {shown}"))

    def _read_json(self, data: bytes) -> Reply:
        text = data.decode("utf-8", "replace")
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return Reply(None, failure="http-error", detail=self._scrubbed(f"no JSON: {one_line(text[:500], 500)}"))
        return Reply(self._scrubbed(text))

    def _scrubbed(self, text: str) -> str:
        """A server's text as it may be stored: valid UTF-8, and without the key if the server repeats it."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return clean if self.key is None else clean.replace(self.key, "***")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect: the status is the answer."""


def completions_url(given: str) -> str:
    """The address of the chat completions: as given, or derived from the address of a server or its `/v1`.

    Raises:
        PluralignError: it is not an http or https address, or contains a user, a password or a query.

    Examples:
        >>> completions_url("http://127.0.0.1:8000")
        'http://127.0.0.1:8000/v1/chat/completions'
        >>> completions_url("https://example.org/llm/v1/")
        'https://example.org/llm/v1/chat/completions'
    """
    try:
        parts = urllib.parse.urlsplit(given.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or any(sign.isspace() for sign in given.strip()):
        raise PluralignError(f"endpoint: found {one_line(given)}, expected an address like http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # The address is not repeated in the message: it may contain a secret.
        raise PluralignError(
            f"endpoint: the address has a user, a query or a fragment: leave it out; a key goes to {KEY_VARIABLE}"
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def key_from_environment() -> str | None:
    """The bearer token in `PLURALIGN_API_KEY`, or `None` if it is not set.

    Raises:
        PluralignError: it contains characters that are not allowed in a header.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise PluralignError(f"{KEY_VARIABLE}: contains spaces or characters that are not ASCII: check the key")
    return key


def ask_all(
    endpoint: Endpoint,
    questions: Sequence[Question],
    text_of: Callable[[Question], str],
    seed_of: Callable[[Question], int],
    concurrency: int,
) -> Generator[tuple[Question, Reply], None, None]:
    """Ask many questions, `concurrency` at once, and yield replies as they arrive.

    `text_of` and `seed_of` give the text and the seed of a question; they are called when its turn comes.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="ask")
    waiting: dict[Future[Reply], Question] = {}
    try:
        for question in questions:
            if len(waiting) == concurrency:
                yield from _ready(waiting)
            waiting[pool.submit(endpoint.ask, text_of(question), seed_of(question), stop)] = question
        while waiting:
            yield from _ready(waiting)
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _ready(waiting: dict[Future[Reply], Question]) -> Iterator[tuple[Question, Reply]]:
    for done in wait(waiting, return_when=FIRST_COMPLETED).done:
        yield waiting.pop(done), done.result()


def _is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(given: str | None) -> float:
    """The seconds of a `Retry-After` header; dates are ignored."""
    return float(given) if given is not None and given.strip().isdecimal() else 0.0
