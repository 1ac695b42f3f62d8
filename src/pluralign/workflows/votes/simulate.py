"""`votes simulate`: personas, played by a language model, give every response a label."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import atomic_write, disk_errors
from pluralign.core.fingerprint import fingerprint, fingerprint_folder
from pluralign.judgments.reading import common_scale, read
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.scales import label_scale as scale_named
from pluralign.judgments.table import Judgments
from pluralign.personas.answer_log import AnswerLog, Key, answer_log
from pluralign.personas.answers import LabelReader, Reading
from pluralign.personas.chat_endpoint import Endpoint, completions_url, key_from_environment
from pluralign.personas.questions import (
    Persona,
    described_labels,
    read_descriptions,
    read_personas,
    read_template,
)
from pluralign.personas.voters import Asker, Question, Reject, questions_of

SOURCE = "simulated"
"""The source of simulated votes."""


@dataclass
class Simulated:
    """What came of a simulation.

    Args:
        out: the table.
        rejects: the file of what gave no vote.
        items: unique responses.
        asked: questions, one for each item and each persona that votes on it.
        reused: of these, answered in an earlier run that did not come to its end.
        votes: by persona, those in the table.
        rejected: by persona, how often for which reason there is no vote.
    """

    out: Path
    rejects: Path
    items: int
    asked: int
    reused: int
    votes: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def reasons(self) -> Counter[str]:
        """How often for which reason there is no vote."""
        return sum(self.rejected.values(), Counter())

    def summary(self) -> list[str]:
        """What happened, one line each."""
        before = f", {self.reused} of them answered before" if self.reused else ""
        lines = [
            f"responses: {self.items}; personas: {len(self.rejected)}; questions: {self.asked}{before}",
            f"votes: {self.votes.total()}; written to {self.out}",
        ]
        if self.reasons:
            lines.append(f"no vote: {self.reasons.total()} ({_counted(self.reasons)}); written to {self.rejects}")
            lines += [
                f"  {one_line(name)}: {self.votes[name]} votes, no vote {reasons.total()} ({_counted(reasons)})"
                for name, reasons in self.rejected.items()
                if reasons
            ]
        return lines


def simulate_votes(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    personas: str | os.PathLike[str] | Sequence[Persona],
    label_scale: str | os.PathLike[str] | LabelScale,
    model: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
    endpoint_model: str | None = None,
    template: str | os.PathLike[str] | None = None,
    descriptions: str | os.PathLike[str] | None = None,
    per_item: int | None = None,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
    max_length: int | None = None,
    timeout: float = 60.0,
    retries: int = 3,
    concurrency: int = 4,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> Simulated:
    """Ask personas for a label of every unique response, and write their votes as judgments.

    Each answer is kept in `OUT.partial.jsonl` as it comes; a run that was stopped and is started again with the
    same settings asks what is missing. What gave no vote goes to `OUT.rejects.jsonl`. The votes stand item by item
    and persona by persona, in whatever order the answers came.

    Args:
        files: canonical files; their unique responses are voted on, what people said about them is not read.
        out: the table of votes, `.parquet`, `.jsonl` or `.jsonl.gz`; what stood there is replaced.
        personas: a YAML file (see `read_personas`), or the personas.
        label_scale: the labels to choose from: a built-in name, a YAML file, or a `LabelScale`.
        model: what `load_policy` takes: a folder, a hub id, an adapter, a mixture.
        endpoint: or the address of an OpenAI-compatible server; `PLURALIGN_API_KEY` is its key, if set.
        endpoint_model: with `endpoint`: the name of the model there.
        template: the question, a Jinja file; `None` is the package's.
        descriptions: a YAML file with a text for each label; `None` takes those of built-in scales.
        per_item: how many personas, drawn by the seed, vote on an item; `None` is all.
        temperature: of drawing, above 0; an endpoint takes 0, too.
        max_new_tokens: the longest answer.
        seed: of personas and answers.
        max_length: with `model`: tokens of question and answer; `None` as `load_policy` has it.
        timeout: with `endpoint`: seconds.
        retries: with `endpoint`: further tries.
        concurrency: with `endpoint`: questions that wait for an answer at once.
        revision: with `model`: branch, tag or commit on the hub.
        trust_remote_code: with `model`: run code that comes with it. Only for code you have read.

    Raises:
        PluralignError: a file, a setting or the model cannot be used; no question gave a vote; or an endpoint
            does not answer: then the answers so far are kept.
    """
    path = Path(out)
    if not path.name.lower().endswith((".parquet", ".jsonl", ".jsonl.gz")):
        raise PluralignError(f"{path}: the name must end in .parquet, .jsonl or .jsonl.gz")
    paths = [Path(file) for file in ([files] if isinstance(files, str | os.PathLike) else files)]
    if path.resolve() in [file.resolve() for file in paths]:
        raise PluralignError(f"--out: {path} is a file that is read: choose another")
    _check(model, endpoint, endpoint_model, temperature, max_new_tokens, timeout, retries, concurrency)
    scale = scale_named(label_scale)
    crowd = read_personas(personas) if isinstance(personas, str | os.PathLike) else _distinct(personas)
    shown = described_labels(scale, None if descriptions is None else read_descriptions(descriptions, scale))
    asked_with, reader = read_template(template), LabelReader(scale)
    # Labels of files that carry no scale must be on some scale to be read.
    judgments = read(paths, scale if common_scale(paths) is None else None)
    questions = questions_of(judgments, crowd, per_item, seed)
    asked_with.render(crowd[0], questions[0].prompt, questions[0].response, shown)  # a fault of it shows early
    asker = Asker(asked_with, shown, temperature, max_new_tokens, seed)
    url = None if endpoint is None else completions_url(endpoint)
    settings = {
        "personas": fingerprint([[one.name, one.description] for one in crowd]),
        "template": fingerprint(asked_with.source),
        "labels": fingerprint(scale.as_dict(), [one.description for one in shown]),
        "responses": fingerprint(sorted({question.item for question in questions})),
        "model": None if model is None else _model_name(model, revision),
        "max_length": max_length,
        "endpoint": url,
        "endpoint_model": endpoint_model,
        "per_item": per_item,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    failed: dict[Key, Reject] = {}
    stopped = ""
    with answer_log(path.with_name(path.name + ".partial.jsonl"), settings) as log:
        reused = len(log.answers)
        if url is not None:
            key = key_from_environment()
            server = Endpoint(url, str(endpoint_model), temperature, max_new_tokens, timeout, retries, key=key)
            stopped = asker.ask_endpoint(server, questions, log, failed, concurrency)
        else:
            options = {"max_length": max_length, "revision": revision, "trust_remote_code": trust_remote_code}
            asker.ask_model(str(model), questions, log, failed, options)
    done = Simulated(
        path, path.with_name(path.name + ".rejects.jsonl"), len({q.item for q in questions}), len(questions), reused
    )
    rows = _sorted_out(questions, log, failed, reader, done, fingerprint(settings), crowd)
    if stopped:
        kept = f"; {len(log.answers)} of {len(questions)} answers are kept in {log.path}" if log.answers else ""
        raise PluralignError(
            f"{stopped}{kept}; what failed is in {done.rejects}; the same command again asks what is missing"
        )
    if rows:
        Judgments.from_rows(rows, scale).write(path)
    with disk_errors(log.path):
        log.path.unlink(missing_ok=True)
    if not rows:
        raise PluralignError(
            f"none of the {len(questions)} questions gave a vote ({_counted(done.reasons)}), so there is no "
            f"table: see {done.rejects}"
        )
    return done


def _sorted_out(
    questions: Sequence[Question],
    log: AnswerLog,
    failed: dict[Key, Reject],
    reader: LabelReader,
    done: Simulated,
    run: str,
    personas: Sequence[Persona],
) -> list[dict[str, Any]]:
    """The votes as rows; what gave none is counted and written to its file, which goes where there is nothing."""
    done.rejected = {persona.name: Counter() for persona in personas}
    rows = []
    rejects = []
    for question in questions:
        answer = log.answers.get(question.key)
        if answer is None:
            if question.key in failed:
                rejects.append(failed[question.key])
            continue  # the run stopped before its turn
        reading = (
            Reading(None, "refusal", "marked as a refusal by the server")
            if answer.refused
            else reader.read(answer.text)
        )
        if reading.label is None:
            rejects.append(Reject(question, str(reading.reason), reading.detail, answer.text))
            continue
        done.votes[question.persona.name] += 1
        rows.append(
            {
                # Of the run: the same vote in a run with another seed is another vote.
                "id": fingerprint(run, *question.key)[:24],
                "prompt": question.prompt,
                "responses": [question.response],
                "labels": [reading.label],
                "annotator": question.persona.name,
                "source": SOURCE,
            }
        )
    for reject in rejects:
        done.rejected[reject.question.persona.name][reject.reason] += 1
    _write_rejects(done.rejects, rejects)
    return rows


def _write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    if not rejects:
        with disk_errors(path):
            path.unlink(missing_ok=True)  # of an earlier run
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


def _check(
    model: object,
    endpoint: object,
    endpoint_model: str | None,
    temperature: float,
    max_new_tokens: int,
    timeout: float,
    retries: int,
    concurrency: int,
) -> None:
    if (model is None) == (endpoint is None):
        raise PluralignError("who votes? give either --model, or --endpoint with --endpoint-model")
    if (endpoint is None) != (not endpoint_model):
        raise PluralignError("--endpoint and --endpoint-model go together: give both or neither")
    least = 0 if model is None else math.nextafter(0, 1)
    if not least <= temperature < math.inf:
        expected = "a finite number above 0" if least else "a finite number, 0 or more"
        raise PluralignError(f"temperature: found {temperature}, expected {expected}")
    for name, number, smallest in (
        ("max_new_tokens", max_new_tokens, 1), ("retries", retries, 0), ("concurrency", concurrency, 1)
    ):  # fmt: skip
        if number < smallest:
            raise PluralignError(f"{name}: found {number}, expected {smallest} or more")
    if not 0 < timeout < math.inf:
        raise PluralignError(f"timeout: found {timeout}, expected a number of seconds above 0")


def _distinct(personas: Iterable[Persona]) -> list[Persona]:
    found = list(personas)
    if not found or len({one.name for one in found}) != len(found) or not all(one.name.strip() for one in found):
        raise PluralignError("personas: expected one or more, each with a name of its own")
    return found


def _model_name(model: str | os.PathLike[str], revision: str) -> list[str]:
    """What tells a model from others: its name, and a folder's content or a hub id's revision."""
    return [str(model), fingerprint_folder(model) if Path(model).is_dir() else revision]


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
