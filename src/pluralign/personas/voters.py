"""Personas as voters: ask a server or a local model the questions of a simulation, and read votes from the answers."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pluralign.core.errors import one_line
from pluralign.core.files import atomic_write, disk_errors
from pluralign.core.fingerprint import fingerprint
from pluralign.core.progress import track
from pluralign.judgments.table import Judgments
from pluralign.personas.answer_log import Answer, AnswerLog, Key
from pluralign.personas.chat_endpoint import Endpoint, Reply, ask_all
from pluralign.personas.label_reader import LabelReader, Reading
from pluralign.personas.questions import DescribedLabel, Persona, VoteTemplate, voters_of
from pluralign.scoring.items import items_of

SOURCE = "simulated"
"""The source of simulated votes."""

GIVE_UP = 20
"""A run stops after this many questions in a row, on several items, without an answer from an endpoint."""

_SEVERAL = 5  # items; on a single item, all questions may be too long for the server

_CHUNK = 256  # questions to a local model between two writes of the log


@dataclass(frozen=True)
class Question:
    """A persona's question about one response."""

    prompt: Any  # the prompt of the item
    response: Any  # the response of the item
    item: str  # the item's name
    persona: Persona  # the persona that is asked

    @property
    def key(self) -> Key:
        """Its key in the log of answers."""
        return self.item, self.persona.name


@dataclass(frozen=True)
class Reject:
    """A question that gave no vote."""

    question: Question  # the question
    reason: str  # `refusal`, `unparsable`, `empty`, `time-out`, `http-error`, `connection` or `too-long`
    detail: str  # an explanation
    raw: str | None = None  # the answer of the model, or `None` if there was none


def questions_of(judgments: Judgments, personas: Sequence[Persona], per_item: int | None, seed: int) -> list[Question]:
    """Every unique response with every persona that votes on it (see `voters_of`), item by item.

    Examples:
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}] * 2
        >>> personas = [Persona("Ann", "A nurse."), Persona("Bo", "A baker.")]
        >>> questions = questions_of(Judgments.from_rows(rows), personas, None, 0)
        >>> [(question.response, question.persona.name) for question in questions]
        [('Yes', 'Ann'), ('Yes', 'Bo'), ('No', 'Ann'), ('No', 'Bo')]
    """
    items = items_of(judgments, keep_all=True)
    prompts = [items.prompts[place] for place in items.item.tolist()]
    names = [fingerprint(prompt, text)[:24] for prompt, text in zip(prompts, items.responses, strict=True)]
    voters = voters_of(names, len(personas), per_item, seed)
    return [
        Question(prompt, response, name, personas[voter])
        for prompt, response, name, chosen in zip(prompts, items.responses, names, voters, strict=True)
        for voter in chosen
    ]


@dataclass(frozen=True)
class Asker:
    """Asks the questions of a run."""

    template: VoteTemplate
    labels: Sequence[DescribedLabel]
    temperature: float  # of a local model, like the next
    max_new_tokens: int
    seed: int  # the seeds of questions to a server, and of chunks of questions to a local model, derive from it

    def text_of(self, question: Question) -> str:
        """The text of a question."""
        return self.template.render(question.persona, question.prompt, question.response, self.labels)

    def seed_of(self, *name: object) -> int:
        """The seed of a question, or of a chunk of questions."""
        return int(fingerprint(self.seed, *name)[:8], 16) % 2**31  # the range that servers accept

    def ask_endpoint(
        self,
        server: Endpoint,
        questions: Sequence[Question],
        log: AnswerLog,
        failed: dict[Key, Reject],
        concurrency: int,
    ) -> str:
        """Ask a server all questions that the log does not answer.

        Answers go to `log`, questions without one to `failed`. Returns why the run stopped early, or an empty string.
        """
        missing = [question for question in questions if question.key not in log.answers]
        replies = ask_all(server, missing, self.text_of, lambda question: self.seed_of(*question.key), concurrency)
        unanswered: list[str] = []  # items of the questions without an answer since the last answer
        with contextlib.closing(replies):
            for question, reply in track(replies, "Asking", total=len(missing)):
                if reply.text is not None:
                    log.add([(question.key, Answer(reply.text, reply.refused))])
                    unanswered = []
                    continue
                failed[question.key] = Reject(question, str(reply.failure), reply.detail)
                if not (reply.of_question and log.answers):  # a server that answers other questions works
                    unanswered.append(question.item)
                if reply.final or (len(unanswered) >= GIVE_UP and len(set(unanswered)) >= _SEVERAL):
                    return _why_stopped(server, reply, len(unanswered))
        return ""

    def ask_model(
        self,
        model: str,
        questions: Sequence[Question],
        log: AnswerLog,
        failed: dict[Key, Reject],
        options: dict[str, Any],
    ) -> None:
        """Ask a local model, loaded by `load_policy`, all questions that the log does not answer, chunk by chunk.

        Answers go to `log`, questions that are too long for the model to `failed`.
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
                if length > room:  # truncation would cut off the persona, which comes first
                    detail = f"{length} tokens, but only {max(room, 0)} fit with an answer of {self.max_new_tokens}"
                    failed[question.key] = Reject(question, "too-long", detail)
            fitting = [place for place, length in enumerate(lengths) if length <= room]
            # A chunk is asked as a whole or not at all: its answers share one stream of random numbers.
            if all(chunk[place].key in log.answers for place in fitting):
                continue
            samples = policy.sample(
                [prompts[place] for place in fitting],
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=self.seed_of("chunk", start),
            )
            answers = [s.response if isinstance(s.response, str) else s.response[0]["content"] for (s,) in samples]
            log.add((chunk[place].key, Answer(text)) for place, text in zip(fitting, answers, strict=True))


def _why_stopped(server: Endpoint, reply: Reply, unanswered: int) -> str:
    if reply.final:
        return f"{server.url}: {one_line(reply.detail, 300)}: check the address, the model's name and the key"
    return f"{server.url}: no answer to {unanswered} questions in a row (the last: {one_line(reply.detail, 300)})"


def read_answers(
    questions: Iterable[Question],
    answers: Mapping[Key, Answer],
    failed: Mapping[Key, Reject],
    reader: LabelReader,
    run: str,
) -> tuple[list[dict[str, Any]], list[Reject]]:
    """The votes as rows of the canonical table, and the questions that gave none; those not asked are skipped.

    `run` is the fingerprint of the run: the same vote in another run gets another id.
    """
    rows, rejects = [], []
    for question in questions:
        answer = answers.get(question.key)
        if answer is None:
            if question.key in failed:
                rejects.append(failed[question.key])
            continue
        refusal = Reading(None, "refusal", "marked as a refusal by the server")
        reading = refusal if answer.refused else reader.read(answer.text)
        if reading.label is None:
            rejects.append(Reject(question, str(reading.reason), reading.detail, answer.text))
            continue
        rows.append(
            {
                "id": fingerprint(run, *question.key)[:24],
                "prompt": question.prompt,
                "responses": [question.response],
                "labels": [reading.label],
                "annotator": question.persona.name,
                "source": SOURCE,
            }
        )
    return rows, rejects


def write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    """Write rejects as JSON Lines; without any, remove the file of an earlier run."""
    if not rejects:
        with disk_errors(path):
            path.unlink(missing_ok=True)
        return
    with atomic_write(path, "w") as file:
        for reject in rejects:
            question = reject.question
            entry = {
                "persona": question.persona.name,
                "item": question.item,
                "reason": reject.reason,
                "detail": reject.detail,
                "raw": reject.raw,
                "prompt": question.prompt,
                "response": question.response,
            }
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def counted(reasons: Counter[str]) -> str:
    """Reasons with their counts, most frequent first.

    Examples:
        >>> counted(Counter(["empty", "refusal", "empty"]))
        '2 empty, 1 refusal'
    """
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
