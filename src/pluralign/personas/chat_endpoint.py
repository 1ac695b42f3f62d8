"""Questions to a chat model behind an OpenAI-compatible address, with the standard library alone."""

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
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from pluralign.core.errors import PluralignError, one_line

KEY_VARIABLE = "PLURALIGN_API_KEY"
"""The environment variable whose value is sent as bearer token, if it is set."""

Failure = Literal["time-out", "http-error", "connection"]

_LONGEST_WAIT = 60.0  # seconds between two tries, whatever a server asks for
_MOST_BYTES = 4 * 2**20  # of a server's answer
_REFUSED = (401, 404)  # no key or a wrong one, no such address or model: the next question will fare no better

Question = TypeVar("Question")


@dataclass(frozen=True)
class Reply:
    """What came of a question.

    Args:
        text: what the model said, or `None` where no answer came.
        refused: the server marked the text as a refusal.
        failure: where no answer came: why.
        detail: in words; never holds the key.
        final: whether other questions must fail in the same way.
        of_question: whether the server found fault with this question (any other status of 4xx but 429).
    """

    text: str | None
    refused: bool = False
    failure: Failure | None = None
    detail: str = ""
    final: bool = False
    of_question: bool = False


@dataclass(frozen=True)
class Endpoint:
    """An address that answers chat completions, and how it is asked.

    Args:
        url: of the chat completions, as `completions_url` gives it.
        model: the name of the model there.
        temperature: of drawing.
        max_new_tokens: the longest answer, `max_tokens` of the request.
        timeout: seconds to wait for a connection, and for the server's next sign; and for a whole answer from its
            first sign on.
        retries: further tries after a time-out, a lost connection, or the status 429 or 5xx.
        back_off: seconds before the first further try; twice as long before each next one. A server that asks for
            a longer time (`Retry-After`) gets it, up to a minute.
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
        # A redirect would send the key, and the data, to an address that the user did not give.
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if _is_loopback(self.url):
            handlers.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*handlers)

    def ask(self, question: str, seed: int, stop: threading.Event) -> Reply:
        """The answer to one question, after as many tries as it takes and `retries` allows.

        Args:
            question: the message of the user.
            seed: sent along; servers that know it draw the same answer again.
            stop: no further tries once it is set.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
            "seed": seed,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        for attempt in range(self.retries + 1):
            reply, again, asked_for = self._try(request)
            if not again or attempt == self.retries:
                break
            if stop.wait(min(max(self.back_off * 2**attempt, asked_for), _LONGEST_WAIT)):
                break
        return reply

    def _try(self, request: urllib.request.Request) -> tuple[Reply, bool, float]:
        """One try: the reply, whether another one may help, and the seconds that the server asks to wait."""
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return self._read(self._body(response)), False, 0.0
        except urllib.error.HTTPError as fault:
            again = fault.code == 429 or fault.code >= 500
            return self._status(fault), again, _seconds(fault.headers.get("Retry-After"))
        except (OSError, http.client.HTTPException, UnicodeError) as fault:
            # What opening runs into comes wrapped, what reading runs into does not.
            cause = fault.reason if isinstance(fault, urllib.error.URLError) else fault
            if isinstance(cause, TimeoutError):
                return Reply(None, failure="time-out", detail=f"no answer in {self.timeout:g} s"), True, 0.0
            shown = self._scrubbed(f"{type(cause).__name__}: {cause}")
            return Reply(None, failure="connection", detail=shown), True, 0.0

    def _body(self, response: Any) -> bytes:
        end = time.monotonic() + self.timeout  # a server that sends a byte now and then is no answer either
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
            said = fault.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            said = ""  # the status says enough
        where = f" (redirect to {fault.headers.get('Location')}, not followed)" if 300 <= fault.code < 400 else ""
        detail = self._scrubbed(f"HTTP {fault.code}{where}: {said.strip() or fault.reason}")
        final = fault.code in _REFUSED
        of_question = 400 <= fault.code < 500 and fault.code != 429 and not final
        return Reply(None, failure="http-error", detail=detail, final=final, of_question=of_question)

    def _read(self, data: bytes) -> Reply:
        try:
            message = json.loads(data)["choices"][0]["message"]
            said, refusal = message.get("content"), message.get("refusal")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            said = refusal = None
            message = None
        if isinstance(refusal, str) and refusal.strip() and not said:
            return Reply(self._scrubbed(refusal), refused=True)
        if message is not None and (said is None or isinstance(said, str)):
            return Reply(self._scrubbed(said or ""))
        shown = one_line(data[:500].decode("utf-8", "replace"), 500)
        return Reply(None, failure="http-error", detail=self._scrubbed(f"no chat completion: {shown}"))

    def _scrubbed(self, text: str) -> str:
        """A server's text, fit for a file: without the key, should the server repeat it, and valid UTF-8."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return clean if self.key is None else clean.replace(self.key, "***")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """No: the status is the answer."""


def completions_url(given: str) -> str:
    """The address of the chat completions: as given, or behind a server's address or its `/v1`.

    Raises:
        PluralignError: it is no http or https address, or holds a password or a query.

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
        # Not repeated in the complaint: there may be a secret in it.
        raise PluralignError(
            f"endpoint: the address has a user, a query or a fragment: leave it out; a key goes to {KEY_VARIABLE}"
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def key_from_environment() -> str | None:
    """The bearer token of `PLURALIGN_API_KEY`, or `None` where it is not set.

    Raises:
        PluralignError: it holds signs that no header may hold.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise PluralignError(f"{KEY_VARIABLE}: holds spaces or signs beyond ASCII, which no key has: set it anew")
    return key


def ask_all(
    endpoint: Endpoint,
    questions: Sequence[Question],
    text_of: Callable[[Question], str],
    seed_of: Callable[[Question], int],
    concurrency: int,
) -> Generator[tuple[Question, Reply], None, None]:
    """Ask many questions, several at once; replies come as they are ready.

    Args:
        endpoint: who is asked.
        questions: what is asked, in order.
        text_of: the text of a question, made when its turn comes.
        seed_of: its seed.
        concurrency: how many wait for their answers at once.
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
    """The seconds of a `Retry-After`; its other form, a date, is not read."""
    return float(given) if given is not None and given.strip().isdecimal() else 0.0
