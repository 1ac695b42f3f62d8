"""`votes simulate`: personas, played by a language model, give a label to every response."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import check_outputs, disk_errors, output_file, write_parquet
from pluralign.core.fingerprint import fingerprint, fingerprint_folder
from pluralign.core.locks import file_lock, locks_out
from pluralign.judgments.inputs import Files
from pluralign.judgments.paths import TABLE_ENDINGS
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.scales import label_scale as scale_named
from pluralign.judgments.table import Judgments
from pluralign.personas.answer_log import Key, answer_log
from pluralign.personas.chat_endpoint import Endpoint, completions_url, key_from_environment
from pluralign.personas.label_reader import LabelReader
from pluralign.personas.outright import outright_prior
from pluralign.personas.questions import (
    Persona,
    described_labels,
    read_descriptions,
    read_personas,
    read_template,
)
from pluralign.personas.voters import Asker, Reject, counted, questions_of, read_answers, write_rejects


@dataclass(frozen=True)
class Simulated:
    """The result of a simulation.

    Args:
        out: the table of votes.
        rejects: the file of questions that gave no vote.
        items: unique responses.
        asked: questions, one for each item and each persona that votes on it.
        reused: questions answered by an earlier run that was interrupted.
        votes: votes in the table, by persona.
        rejected: reasons for missing votes, by persona.
        prior: the table of priors, if one was asked for.
        without_prior: responses that are not in it, because the question does not fit into the model.
    """

    out: Path
    rejects: Path
    items: int
    asked: int
    reused: int
    votes: Counter[str]
    rejected: dict[str, Counter[str]]
    prior: Path | None = None
    without_prior: int = 0

    @property
    def reasons(self) -> Counter[str]:
        """Reasons for missing votes."""
        return sum(self.rejected.values(), Counter())

    def summary(self) -> list[str]:
        """A summary for the terminal, as lines."""
        before = f", {self.reused} of them answered before" if self.reused else ""
        lines = [
            f"responses: {self.items}; personas: {len(self.rejected)}; questions: {self.asked}{before}",
            f"votes: {self.votes.total()}; written to {self.out}",
        ]
        if self.reasons:
            lines.append(f"no vote: {self.reasons.total()} ({counted(self.reasons)}); written to {self.rejects}")
            lines += [
                f"  {one_line(name)}: {self.votes[name]} votes, no vote {reasons.total()} ({counted(reasons)})"
                for name, reasons in self.rejected.items()
                if reasons
            ]
        if self.prior is not None:
            long = f"; left out, because too long: {self.without_prior}" if self.without_prior else ""
            lines.append(f"prior of {self.items - self.without_prior} responses: written to {self.prior}{long}")
        return lines


@locks_out(partial(file_lock, wait=False))
def simulate_votes(
    files: Files,
    out: str | os.PathLike[str],
    *,
    personas: str | os.PathLike[str] | Sequence[Persona],
    label_scale: str | os.PathLike[str] | LabelScale,
    columns: Columns | None = None,
    model: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
    endpoint_model: str | None = None,
    template: str | os.PathLike[str] | None = None,
    descriptions: str | os.PathLike[str] | None = None,
    prior: str | os.PathLike[str] | None = None,
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

    Answers are kept in `OUT.partial.jsonl` as they arrive; an interrupted run that is started again with the same
    settings asks only what is missing. Questions that gave no vote go to `OUT.rejects.jsonl`. Votes are ordered by
    item and persona, whatever the order of the answers.

    Args:
        files: what `read` takes: files, data sets, frames or rows; only their unique responses are used,
            not the judgments of them.
        out: the table of votes, `.parquet`, `.jsonl` or `.jsonl.gz`; an existing file is replaced.
        personas: a YAML file (see `read_personas`), or the personas.
        label_scale: the labels to choose from: a built-in name, a YAML file, or a `LabelScale`.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.
        model: what `load_policy` takes: a folder, a hub id, an adapter or a mixture.
        endpoint: instead of `model`, the address of an OpenAI-compatible server; the environment variable
            `PLURALIGN_API_KEY` holds its key, if it needs one.
        endpoint_model: with `endpoint`: the name of the model there.
        template: the question, a Jinja file. Default: the template of the package.
        descriptions: a YAML file with a text for each label. Default: those of built-in scales.
        prior: with `model`: also write a table of priors, a `.parquet` file: how the model, asked outright and not as a
            persona, divides its reply among the labels. `update_votes` takes it.
        per_item: the number of personas that vote on an item, drawn by the seed; `None` for all.
        temperature: sampling temperature, above 0; an endpoint also takes 0.
        max_new_tokens: the longest answer.
        seed: random seed for personas and answers.
        max_length: with `model`: the maximum tokens of question and answer. Default: that of `load_policy`.
        timeout: with `endpoint`: seconds.
        retries: with `endpoint`: further attempts.
        concurrency: with `endpoint`: the number of questions that wait for an answer at once.
        revision: with `model`: branch, tag or commit on the hub.
        trust_remote_code: with `model`: run code that comes with it. Only for code you have read.

    Raises:
        PluralignError: a file, a setting or the model cannot be used; no question gave a vote; or an endpoint
            does not answer, and the answers so far are kept.
    """
    path = output_file(out, endings=TABLE_ENDINGS)
    given = Inputs(files, columns)
    beside = [path.with_name(path.name + ending) for ending in (".partial.jsonl", ".rejects.jsonl")]
    prior_path = None if prior is None else output_file(prior, endings=(".parquet",))
    outputs = [path, *beside] if prior_path is None else [path, *beside, prior_path]
    check_outputs(outputs, [*given.names, personas, label_scale, template, descriptions])
    if (model is None) == (endpoint is None):
        raise PluralignError("give either --model, or --endpoint with --endpoint-model")
    if (endpoint is None) != (not endpoint_model):
        raise PluralignError("--endpoint and --endpoint-model go together: give both or neither")
    if prior is not None and model is None:
        raise PluralignError("prior: is read from probabilities, which a server does not give: use --model")
    for name, number, least in (
        ("max_new_tokens", max_new_tokens, 1), ("retries", retries, 0), ("concurrency", concurrency, 1)
    ):  # fmt: skip
        if number < least:
            raise PluralignError(f"{name}: found {number}, expected {least} or more")
    if not (0 < temperature < math.inf or (temperature == 0 and model is None)):
        expected = "a finite number, 0 or more" if model is None else "a finite number above 0"
        raise PluralignError(f"temperature: found {temperature}, expected {expected}")
    if not 0 < timeout < math.inf:
        raise PluralignError(f"timeout: found {timeout}, expected a number of seconds above 0")
    scale = scale_named(label_scale)
    if isinstance(personas, str | os.PathLike):
        voters = read_personas(personas)
    else:
        voters = list(personas)
        names = {persona.name for persona in voters if persona.name.strip()}
        if not voters or len(names) != len(voters):
            raise PluralignError("personas: expected one or more, each with a unique name")
    labels = described_labels(scale, None if descriptions is None else read_descriptions(descriptions, scale))
    question_template, reader = read_template(template), LabelReader(scale)
    # Files with labels and no scale can only be read with a scale.
    judgments = given.read(scale if given.label_scale() is None else None)
    questions = questions_of(judgments, voters, per_item, seed)
    asker = Asker(question_template, labels, temperature, max_new_tokens, seed)
    asker.text_of(questions[0])  # fail early if the template cannot be filled in
    url = None if endpoint is None else completions_url(endpoint)
    items = {question.item for question in questions}
    settings = {
        "personas": fingerprint([[persona.name, persona.description] for persona in voters]),
        "template": fingerprint(question_template.source),
        "labels": fingerprint(scale.as_dict(), [label.description for label in labels]),
        "responses": fingerprint(sorted(items)),
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
    stopped, left_out = "", 0
    options: dict[str, Any] = {
        "max_length": max_length, "revision": revision, "trust_remote_code": trust_remote_code
    }  # fmt: skip
    with answer_log(path.with_name(path.name + ".partial.jsonl"), settings) as log:
        reused = len(log.answers)
        if url is not None:
            key = key_from_environment()
            server = Endpoint(url, str(endpoint_model), temperature, max_new_tokens, timeout, retries, key=key)
            stopped = asker.ask_endpoint(server, questions, log, failed, concurrency)
        else:
            asker.ask_model(str(model), questions, log, failed, options)
    rows, rejects = read_answers(questions, log.answers, failed, reader, fingerprint(settings))
    rejected: dict[str, Counter[str]] = {persona.name: Counter() for persona in voters}
    for reject in rejects:
        rejected[reject.question.persona.name][reject.reason] += 1
    rejects_path = path.with_name(path.name + ".rejects.jsonl")
    write_rejects(rejects_path, rejects)
    if stopped:
        kept = f"; {len(log.answers)} of {len(questions)} answers are kept in {log.path}" if log.answers else ""
        raise PluralignError(
            f"{stopped}{kept}; what failed is in {rejects_path}; run the same command again to ask what is missing"
        )
    if prior_path is not None:
        table, left_out = outright_prior(str(model), judgments, labels, options)
        write_parquet(table, prior_path)
    if rows:
        Judgments.from_rows(rows, scale).write(path)
    with disk_errors(log.path):
        log.path.unlink(missing_ok=True)
    votes = Counter(row["annotator"] for row in rows)
    done = Simulated(path, rejects_path, len(items), len(questions), reused, votes, rejected, prior_path, left_out)
    if not rows:
        raise PluralignError(
            f"none of the {len(questions)} questions gave a vote ({counted(done.reasons)}), so there is no "
            f"table: see {rejects_path}"
        )
    return done


def _model_name(model: str | os.PathLike[str], revision: str) -> list[str]:
    """What identifies a model: its name, and the content of a folder or the revision of a hub id."""
    return [str(model), fingerprint_folder(model) if Path(model).is_dir() else revision]
