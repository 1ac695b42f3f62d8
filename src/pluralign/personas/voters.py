"""Personas as voters: the questions of a simulation, put to a server or to a model in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pluralign.core.errors import one_line
from pluralign.core.fingerprint import fingerprint
from pluralign.core.progress import track
from pluralign.judgments.table import Judgments
from pluralign.personas.answer_log import Answer, AnswerLog, Key
from pluralign.personas.chat_endpoint import Endpoint, Reply, ask_all
from pluralign.personas.questions import DescribedLabel, Persona, VoteTemplate, voters_of
from pluralign.scoring.items import items_of

GIVE_UP = 20
"""After so many questions in a row without any answer from an endpoint, on several items, the run stops."""

_SEVERAL = 5  # items; on one of them everybody's question may be too long for the server

_CHUNK = 256  # questions to a local model between two writes


@dataclass(frozen=True)
class Question:
    """One persona asked about one response.

    Args:
        prompt: of the item.
        response: of the item.
        item: the item's name.
        persona: who is asked.
    """

    prompt: Any
    response: Any
    item: str
    persona: Persona

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.item, self.persona.name


@dataclass(frozen=True)
class Reject:
    """A question that gave no vote.

    Args:
        question: it.
        reason: `refusal`, `unparsable`, `empty`, `time-out`, `http-error`, `connection` or `too-long`.
        detail: in words.
        raw: what the model said, or `None` where it said nothing.
    """

    question: Question
    reason: str
    detail: str
    raw: str | None = None


def questions_of(judgments: Judgments, personas: Sequence[Persona], per_item: int | None, seed: int) -> list[Question]:
    """Every unique response with every persona that votes on it, item by item.

    Args:
        judgments: the table; each unique (prompt, response) is an item.
        personas: who there is.
        per_item: how many of them, drawn by the seed, vote on an item; `None` is all.
        seed: of the draw.

    Raises:
        PluralignError: more personas are to vote than there are.

    Examples:
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}] * 2
        >>> people = [Persona("Ann", "A nurse."), Persona("Bo", "A baker.")]
        >>> asked = questions_of(Judgments.from_rows(rows), people, None, 0)
        >>> [(one.response, one.persona.name) for one in asked]
        [('Yes', 'Ann'), ('Yes', 'Bo'), ('No', 'Ann'), ('No', 'Bo')]
    """
    items = items_of(judgments, keep_all=True)
    prompts = [items.prompts[place] for place in items.item.tolist()]
    names = [fingerprint(prompt, text)[:24] for prompt, text in zip(prompts, items.responses, strict=True)]
    voters = voters_of(names, len(personas), per_item, seed)
    return [
        Question(prompt, response, name, personas[voter])
        for prompt, response, name, who in zip(prompts, items.responses, names, voters, strict=True)
        for voter in who
    ]


@dataclass(frozen=True)
class Asker:
    """How questions are put, to a server or to a model in memory.

    Args:
        template: the question's form.
        labels: what there is to choose from.
        temperature: of a model in memory.
        max_new_tokens: the longest answer of a model in memory.
        seed: each question to a server, and each chunk of questions to a model, has its own, made of this one.
    """

    template: VoteTemplate
    labels: Sequence[DescribedLabel]
    temperature: float
    max_new_tokens: int
    seed: int

    def text_of(self, question: Question) -> str:
        """The text of a question."""
        return self.template.render(question.persona, question.prompt, question.response, self.labels)

    def seed_of(self, *name: object) -> int:
        """The seed of a question, or of a chunk of them."""
        return int(fingerprint(self.seed, *name)[:8], 16) % 2**31  # what servers take

    def ask_endpoint(
        self,
        server: Endpoint,
        questions: Sequence[Question],
        log: AnswerLog,
        failed: dict[Key, Reject],
        concurrency: int,
    ) -> str:
        """Ask a server what is missing.

        Args:
            server: who is asked.
            questions: all of the run.
            log: its answers; new ones are added.
            failed: what gave no answer is put there.
            concurrency: how many questions wait for an answer at once.

        Returns:
            why the server was given up, or nothing.
        """
        missing = [question for question in questions if question.key not in log.answers]
        replies = ask_all(server, missing, self.text_of, lambda one: self.seed_of(*one.key), concurrency)
        in_a_row: list[str] = []  # the items of questions without an answer since the last answer
        with contextlib.closing(replies):
            for question, reply in track(replies, "Asking", total=len(missing)):
                if reply.text is not None:
                    log.add([(question.key, Answer(reply.text, reply.refused))])
                    in_a_row = []
                    continue
                failed[question.key] = Reject(question, str(reply.failure), reply.detail)
                if not (reply.of_question and log.answers):  # a server that answers others is no lost cause
                    in_a_row.append(question.item)
                if reply.final or (len(in_a_row) >= GIVE_UP and len(set(in_a_row)) >= _SEVERAL):
                    return _given_up(server, reply, len(in_a_row))
        return ""

    def ask_model(
        self,
        model: str,
        questions: Sequence[Question],
        log: AnswerLog,
        failed: dict[Key, Reject],
        options: dict[str, Any],
    ) -> None:
        """Ask a model in memory what is missing, chunk by chunk.

        Args:
            model: what `load_policy` takes.
            questions: all of the run.
            log: its answers; new ones are added.
            failed: questions too long for the model are put there.
            options: further arguments of `load_policy`.

        Raises:
            PluralignError: the model cannot be loaded.
        """
        from pluralign.policies.loading import load_policy  # here: an endpoint needs no torch
        from pluralign.scoring.tokens import prompt_tokens

        policy = load_policy(model, **options)
        room = policy.limits.max_length - self.max_new_tokens
        chat = policy.tokenizer.chat_template is not None
        for start in range(0, len(questions), _CHUNK):
            chunk = questions[start : start + _CHUNK]
            texts = [self.text_of(question) for question in chunk]
            prompts: list[Any] = [[{"role": "user", "content": text}] for text in texts] if chat else texts
            lengths = [len(ids) for ids in prompt_tokens(prompts, policy.tokenizer, 10**9)]
            for question, length in zip(chunk, lengths, strict=True):
                if length > room:  # it would be cut, and the persona comes first
                    detail = f"{length} tokens, and {max(room, 0)} fit beside an answer of {self.max_new_tokens}"
                    failed[question.key] = Reject(question, "too-long", detail)
            fitting = [place for place, length in enumerate(lengths) if length <= room]
            # A chunk is asked whole or not at all: its answers depend on one stream of random numbers.
            if all(chunk[place].key in log.answers for place in fitting):
                continue
            drawn = policy.sample(
                [prompts[place] for place in fitting],
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=self.seed_of("chunk", start),
            )
            said = [one.response if isinstance(one.response, str) else one.response[0]["content"] for (one,) in drawn]
            log.add((chunk[place].key, Answer(text)) for place, text in zip(fitting, said, strict=True))


def _given_up(server: Endpoint, reply: Reply, in_a_row: int) -> str:
    if reply.final:
        return f"{server.url}: {one_line(reply.detail, 300)}: check the address, the model's name and the key"
    return f"{server.url}: no answer to {in_a_row} questions in a row (the last: {one_line(reply.detail, 300)})"
