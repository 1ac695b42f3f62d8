"""Texts to token ids: each prompt once, its responses after it, truncated to what the model can read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.fingerprint import fingerprint
from pluralign.core.progress import track
from pluralign.core.templates import TEMPLATE_FAULTS
from pluralign.judgments.messages import for_template
from pluralign.scoring.items import Items

CHUNK = 512


@dataclass(frozen=True)
class TokenLimits:
    """Maximum tokens of a prompt with one response, and of the response (default: three quarters of `max_length`)."""

    max_length: int
    max_response_length: int | None = None

    @property
    def response(self) -> int:
        """Maximum number of tokens of a response."""
        if self.max_response_length is None:
            return max(1, self.max_length * 3 // 4)
        return min(self.max_response_length, self.max_length)


@dataclass(frozen=True)
class TokenizedItems:
    """Token ids of items. A response is read as `prompt_ids[item] + response_ids[response]`.

    Args:
        prompt_ids: per item, truncated.
        response_ids: per response, truncated, with its end token unless a policy reads it and it was truncated.
        item: `(responses,)` the item of each response.
        cut_prompts: number of prompts that lost tokens, on the left.
        cut_responses: number of responses that lost tokens, on the right.
    """

    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    item: np.ndarray
    cut_prompts: int
    cut_responses: int

    def sequence(self, response: int) -> list[int]:
        """Prompt and response as one row of ids."""
        return self.prompt_ids[self.item[response]] + self.response_ids[response]

    def fingerprint(self) -> str:
        """Hash of the token ids."""
        return fingerprint(self.prompt_ids, self.response_ids, self.item.tolist())

    def lengths(self) -> np.ndarray:
        """`(responses,)` tokens in each sequence."""
        prompts = np.array([len(ids) for ids in self.prompt_ids])
        return prompts[self.item] + np.array([len(ids) for ids in self.response_ids])


def model_context(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Maximum number of tokens that a model can read, from its config and its tokenizer."""
    longest = int(min(tokenizer.model_max_length, 10**9))
    text_config = config.get_text_config()
    if positions := getattr(text_config, "max_position_embeddings", None):
        # RoBERTa-like models number positions from after the padding id.
        offset = text_config.pad_token_id + 1 if text_config.model_type in _OFFSET_POSITIONS else 0
        longest = min(longest, positions - offset)
    return longest


_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text", "xlm-roberta-xl")


def tokenize(
    items: Items, tokenizer: PreTrainedTokenizerBase, limits: TokenLimits, encoder: bool, policy: bool = False
) -> TokenizedItems:
    """Token ids of every prompt and response.

    Causal models read `[bos] prompt response [eos]`; encoders `[cls] prompt [sep] response [sep]`. Prompt and
    response are tokenized together and split where the prompt ends; if a token spans that boundary they are tokenized
    separately, so that all responses share their prompt's tokens. Messages go through the tokenizer's chat template.

    A response over its limit is truncated on the right; then an item's prompt is truncated on the left to what its
    longest response leaves, keeping special tokens: of a chat the start token of the prompt and the end of the
    response, as the template writes them. Both are counted.

    With `policy` the tokens are those that a policy draws. A response that is truncated here, or was cut where it was
    drawn, has no end token: a policy would learn to end, or be judged by ending, where a text goes on. A chat response
    ends with the token that ends its turn, without the line break (ChatML, Gemma) or the end of the whole chat (Phi-3)
    that templates write after it: sampling stops before that.

    Raises:
        PluralignError: messages without a chat template, or a template that does not end the prompt where the
            response begins.
    """
    render = _Renderer(tokenizer, encoder, chat=isinstance(items.responses[0], list))
    prompts = [render.prompt(prompt) for prompt in items.prompts]
    prompt_ids = _ids(tokenizer, prompts)
    response_ids: list[list[int]] = []
    for start in track(range(0, len(items.responses), CHUNK), "Tokenizing"):
        chunk = slice(start, start + CHUNK)
        members, texts = items.item[chunk], items.responses[chunk]
        tails = [
            render.response(items.prompts[item], prompts[item], text) for item, text in zip(members, texts, strict=True)
        ]
        separate = _ids(tokenizer, tails)
        if encoder:
            response_ids.extend(separate)
            continue
        joint = _ids(tokenizer, [prompts[item] + tail for item, tail in zip(members, tails, strict=True)])
        for item, together, alone in zip(members, joint, separate, strict=True):
            ahead = prompt_ids[item]
            response_ids.append(together[len(ahead) :] if together[: len(ahead)] == ahead else alone)
    if policy and render.chat:
        response_ids = [render.turn(ids) for ids in response_ids]
    unfinished = items.unfinished if policy else None
    if unfinished is not None and render.chat:
        ended = zip(unfinished, response_ids, strict=True)
        response_ids = [ids[: render.text_end(ids)] if cut else ids for cut, ids in ended]
    return _cut(items.item, prompt_ids, response_ids, render, limits, end_cut=not policy, unfinished=unfinished)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    # `verbose=False`: texts longer than the model's context are truncated later.
    return list(tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])


def _cut(
    item: np.ndarray,
    prompt_ids: list[list[int]],
    response_ids: list[list[int]],
    render: _Renderer,
    limits: TokenLimits,
    end_cut: bool,
    unfinished: np.ndarray | None,
) -> TokenizedItems:
    """Truncate responses on the right and prompts on the left, in place, and add the special tokens."""
    cut_prompts = cut_responses = 0
    longest = np.zeros(len(prompt_ids), dtype=np.int64)
    starts = [render.start(ids) for ids in prompt_ids]
    # The special tokens around a prompt are kept even if a response leaves no room for anything else.
    around = max(map(len, starts), default=0) + len(render.between)
    room = max(1, min(limits.response, limits.max_length - around))
    for index, ids in enumerate(response_ids):
        ended = ids[-1:] == render.after or (unfinished is not None and unfinished[index])
        whole = ids if ended else ids + render.after
        cut_responses += len(whole) > room
        if len(whole) > room:
            after = (render.after or ids[render.text_end(ids) :]) if end_cut else []
            whole = (ids[: max(1, room - len(after))] + after)[:room]
        response_ids[index] = ids = whole
        longest[item[index]] = max(longest[item[index]], len(ids))
    for index, (start, ids) in enumerate(zip(starts, prompt_ids, strict=True)):
        between = render.between if ids else []
        ids = render.bare(ids)
        left = max(0, limits.max_length - int(longest[index]) - len(start) - len(between))
        cut_prompts += len(ids) > left
        prompt_ids[index] = start + ids[max(0, len(ids) - left) :] + between
    return TokenizedItems(prompt_ids, response_ids, item, cut_prompts, cut_responses)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokenizer's special tokens, those without a role such as end or padding included."""
    named = {place for place, token in tokenizer.added_tokens_decoder.items() if token.special}
    return named | set(tokenizer.all_special_ids)


_SHOWN = "Hello"
_TURNS: list[dict[str, Any]] = [{"role": "user", "content": _SHOWN}, {"role": "assistant", "content": _SHOWN}]
"""Messages with which a chat template is asked what it does."""


def as_parts(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with each text as a list of one part, as templates of models that also read images expect it.

    Examples:
        >>> as_parts([{"role": "user", "content": "Tea?"}])
        [{'role': 'user', 'content': [{'type': 'text', 'text': 'Tea?'}]}]
    """
    return [
        message | {"content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def reads_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template renders a text only as a part, and without an error leaves out any other."""
    return tokenizer.chat_template is not None and _Renderer(tokenizer, encoder=False, chat=True).parts


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the special token with which the chat template ends an assistant's turn; `None` if there is none."""
    if tokenizer.chat_template is None:
        return None
    render = _Renderer(tokenizer, encoder=False, chat=True)
    try:
        rendered = render.response(_TURNS[:1], render.prompt(_TURNS[:1]), _TURNS[1:])
    except PluralignError:  # a template with other needs, such as tools: its texts are rendered without this
        return None
    last = render.turn(_ids(tokenizer, [rendered])[0])[-1:]
    return last[0] if last and last[0] in render.special else None


def check_embedded(name: str, token_ids: Iterable[Sequence[int]], model: Any, tokenizer: Any) -> None:
    """Check that a model has an embedding for every token of some texts, which errors call `name`.

    Raises:
        PluralignError: it lacks one; names the token.
    """
    embeddings = model.get_input_embeddings().num_embeddings
    highest = max((max(ids) for ids in token_ids if len(ids)), default=0)
    if highest >= embeddings:
        token = one_line(tokenizer.convert_ids_to_tokens(int(highest)))
        raise PluralignError(
            f"{name}: the tokenizer gives the token {highest} ({token}), the model has {embeddings} embeddings: "
            "use the tokenizer of the model, or call model.resize_token_embeddings(len(tokenizer)) and save it"
        )


def lost_texts(items: Items, tokens: TokenizedItems, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a model cannot see of some texts, as lines of a warning: responses that are alike or empty as tokens.

    Responses to one prompt that differ in what was cut, or in what the chat template or the tokenizer drops, have the
    same tokens and so the same value.
    """
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    first: dict[tuple[int, ...], int] = {}
    alike: list[tuple[int, int]] = []
    empty: list[int] = []
    for response, (item, ids) in enumerate(zip(tokens.item.tolist(), tokens.response_ids, strict=True)):
        other = first.setdefault((item, *ids), response)
        if items.responses[other] != items.responses[response]:
            alike.append((other, response))
        if special.issuperset(ids):
            empty.append(response)
    lines = []
    if alike:
        shown = " and ".join(one_line(items.responses[response], 40) for response in alike[0])
        lines.append(
            f"{len(alike)} of {len(items.responses)} responses have the same tokens as another response to their "
            f"prompt, after cutting or by the chat template, and so the same value; the first are {shown}"
        )
    if empty:
        lines.append(
            f"{len(empty)} of {len(items.responses)} responses have no tokens but special ones; the first is "
            f"{one_line(items.responses[empty[0]], 40)}"
        )
    return lines


def prompt_tokens(prompts: Sequence[Any], tokenizer: PreTrainedTokenizerBase, room: int) -> list[list[int]]:
    """Token ids of prompts for a causal model, truncated on the left to `room` tokens, keeping the start token."""
    if not prompts:
        return []
    render = _Renderer(tokenizer, encoder=False, chat=isinstance(prompts[0], list))
    found = []
    for ids in _ids(tokenizer, [render.prompt(prompt) for prompt in prompts]):
        start, rest = render.start(ids), render.bare(ids)
        found.append(start + rest[max(0, len(rest) - max(0, room - len(start))) :])
    return found


class _Renderer:
    """Renders prompts and responses for one tokenizer, and holds the special tokens around them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: bool, chat: bool) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.special = special_ids(tokenizer)
        self.parts = False  # whether the template reads contents as lists of parts
        self.before: list[int] = []
        self.between: list[int] = []
        self.after: list[int] = []
        if chat and tokenizer.chat_template is None:
            raise PluralignError(
                "the data holds chat messages but the tokenizer has no chat template: set one with "
                "chat_template_path, or import the data as text"
            )
        if encoder:
            self.before = [] if tokenizer.cls_token_id is None else [tokenizer.cls_token_id]
            self.between = self.after = [] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
        elif not chat:  # a chat template writes the special tokens itself
            first = list(tokenizer("", verbose=False)["input_ids"][:1])
            self.before = first if first == [tokenizer.bos_token_id] else []
            self.after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        elif tokenizer.bos_token_id is not None:
            self.before = [tokenizer.bos_token_id]
        self.written = chat and not encoder  # whether a prompt has `before` only if the template wrote it
        if chat:
            self.parts = not self._shows(_TURNS[:1]) and self._shows(as_parts(_TURNS[:1]))

    def _shows(self, messages: list[dict[str, Any]]) -> bool:
        """Whether the template renders messages with their texts."""
        try:
            return _SHOWN in self._template(messages, False)
        except PluralignError:
            return False

    def start(self, ids: list[int]) -> list[int]:
        """The special tokens before a prompt with these tokens, however much of it is cut."""
        return [] if self.written and ids[: len(self.before)] != self.before else self.before

    def bare(self, ids: list[int]) -> list[int]:
        """A prompt's tokens without a start token that its text begins with: one is put before every prompt."""
        return ids[len(self.before) :] if self.before and ids[: len(self.before)] == self.before else ids

    def text_end(self, ids: list[int]) -> int:
        """Where the special tokens begin with which a response ends, white space between them included."""
        first = at = len(ids)
        while at and (ids[at - 1] in self.special or not self.tokenizer.decode(ids[at - 1]).strip()):
            at -= 1
            first = at if ids[at] in self.special else first
        return first

    def turn(self, ids: list[int]) -> list[int]:
        """A chat response without what the template writes after the special token that ends its turn."""
        last = [at for at in range(self.text_end(ids), len(ids)) if ids[at] in self.special]
        ends = [at for at in last if ids[at] == self.end] or last
        return ids[: ends[-1] + 1] if ends else ids

    @cached_property
    def end(self) -> int | None:
        """The special token that ends an assistant's turn whether or not the chat goes on; `None` if there is none."""
        try:
            final = self._template(_TURNS, False).split(_SHOWN)[-1]
            inner = self._template([*_TURNS, _TURNS[0]], False).split(_SHOWN)[-2:][0]
        except PluralignError:  # a template with other needs
            return None
        shared = os.path.commonprefix(_ids(self.tokenizer, [final, inner]))
        return next((token for token in reversed(shared) if token in self.special), None)

    def _template(self, messages: list[dict[str, Any]], generation: bool) -> str:
        try:
            given = for_template(messages)
            if self.parts:
                given = as_parts(given)
            return str(self.tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=generation))
        except TEMPLATE_FAULTS as fault:
            reason = " ".join(str(fault).split()) or type(fault).__name__
            raise PluralignError(
                f"the chat template cannot render the messages {one_line(messages)}: {reason}; correct them, or set "
                "another template with chat_template_path"
            ) from fault

    def prompt(self, prompt: Any) -> str:
        """The text before a response; of an empty chat what the template writes before the first message."""
        if isinstance(prompt, str):
            return prompt
        if prompt:
            return self._template(prompt, True)
        with contextlib.suppress(PluralignError):  # a template that asks for a prompt: its responses raise
            return os.path.commonprefix([self._template([_TURNS[1] | {"content": text}], False) for text in "ab"])
        return ""

    def response(self, prompt: Any, rendered_prompt: str, response: Any) -> str:
        if isinstance(response, str):
            return response
        whole = self._template(prompt + response, False)
        if not whole.startswith(rendered_prompt):
            raise PluralignError(
                "the chat template renders a prompt differently when a response follows, so the response's tokens "
                f"cannot be separated: expected {rendered_prompt[-60:]!r} before the response; set another "
                "template with chat_template_path"
            )
        return whole[len(rendered_prompt) :]
