"""Personas' votes: what is asked, what becomes of good and bad answers, and runs that were killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jinja2
import numpy as np
import pytest
import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import pluralign
from architectures import write_model
from loopback import TEMPLATE, chat_server, half, hang, hang_up, status, then
from pluralign.core.errors import PluralignError
from pluralign.demo.from_scratch import make_causal_model
from pluralign.judgments import BUILT_IN_SCALES, Judgments, LabelScale, read
from pluralign.judgments.votes import read_votes
from pluralign.judgments.votes.priors import read_priors
from pluralign.judgments.votes.state import item_key
from pluralign.personas import voters as persona_voters
from pluralign.personas.questions import Persona, described_labels
from pluralign.policies.policy import Policy
from pluralign.workflows.votes.simulate import simulate_votes
from pluralign.workflows.votes.update import update_votes

HH = BUILT_IN_SCALES["hh-6"]
LABELS = list(HH.labels)
MOOD = BUILT_IN_SCALES["agree-pass-disagree"]
LETTERS = LabelScale("letters", tuple("abcdefghijklmnopqrstuvwxyz"), tuple(map(float, range(26))))
ROWS = [
    {"prompt": "Tea?", "responses": ["Yes", "No", "Later"], "ranks": [1, 2, 3], "annotator": "w1"},
    {"prompt": "Rain?", "responses": ["Yes", "No"], "ranks": [2, 1], "annotator": "w1"},
    {"prompt": "Tea?", "responses": ["No", "Yes"], "ranks": [1, 2], "annotator": "w2"},
    {"prompt": "", "responses": ["Hello"], "ranks": [1]},
]
ITEMS = [("Tea?", "Yes"), ("Tea?", "No"), ("Tea?", "Later"), ("Rain?", "Yes"), ("Rain?", "No"), ("", "Hello")]


@pytest.fixture
def folder(tmp_path):
    """A table, a template, and personas that the loopback server knows by name."""
    Judgments.from_rows(ROWS).write(tmp_path / "in.parquet")
    (tmp_path / "vote.jinja").write_text(TEMPLATE)
    return tmp_path


def write_people(folder, *names):
    people = [{"name": name, "description": f"It is {name}."} for name in names]
    (folder / "people.yaml").write_text(yaml.safe_dump(people))
    return folder / "people.yaml"


def simulate(folder, server, *names, out="votes.parquet", **options):
    people = [Persona(name, f"It is {name}.") for name in names]
    settings = {
        "personas": people, "label_scale": "hh-6", "endpoint": server.url, "endpoint_model": "tiny",
        "template": folder / "vote.jinja", "timeout": 10, "retries": 1,
    }  # fmt: skip
    return simulate_votes(folder / "in.parquet", folder / out, **settings | options)


def label_by_response(handler, before):
    """The label depends on who is asked about what."""
    return LABELS[sum(map(ord, handler.question)) % 6]


def rejects_of(folder, out="votes.parquet"):
    return [json.loads(line) for line in (folder / f"{out}.rejects.jsonl").read_text().splitlines()]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_persona_votes_once_on_every_unique_response(folder):
    with chat_server(ann=label_by_response, bo=label_by_response) as server:
        done = simulate(folder, server, "ann", "bo", concurrency=5)
    votes = read(folder / "votes.parquet")
    expected = [
        (prompt, [response], [LABELS[sum(map(ord, f"{name}|{prompt}|{response}")) % 6]], name)
        for prompt, response in ITEMS
        for name in ("ann", "bo")
    ]
    found = [(row["prompt"], row["responses"], row["labels"], row["annotator"]) for row in votes.rows()]
    assert found == expected
    assert votes.label_scale == HH
    assert set(votes.column("source")) == {"simulated"}
    assert votes.column("ranks") == [None] * 12
    assert len(set(votes.column("id"))) == 12
    assert sorted(server.asked) == sorted(f"{name}|{prompt}|{response}" for prompt, (response,), _, name in expected)
    assert (done.items, done.asked, done.reused) == (6, 12, 0)
    assert (done.votes, done.reasons) == (Counter(ann=6, bo=6), Counter())
    assert names_in(folder) == ["in.parquet", "vote.jinja", "votes.parquet"]
    # The seed of a question is its own.
    assert len({body["seed"] for _, _, body in server.requests}) == 12


def test_what_gives_no_vote_is_written_out_and_counted_by_reason_and_persona(folder):
    manners = {
        "good": label_by_response,
        "late": then(500, LABELS[1]),
        "limited": then(429, LABELS[2]),
        "refuses": "I'm sorry, but I can't judge this: helpful+harmless",
        "marks": lambda handler, before: handler.say({"choices": [{"message": {"refusal": "No."}}]}),
        "garbage": "helpful+harmless or unhelpful+harmful, who knows",
        "silent": " \n",
        "hangs": hang,
        "closes": hang_up,
        "halves": half,
        "broken": status(500),
        "mistaken": status(400, b"no"),
        "page": status(200, b"<html>"),
    }
    with chat_server(**manners) as server:
        done = simulate(folder, server, *manners, concurrency=20, timeout=2)
    reasons = {
        "refuses": "refusal", "marks": "refusal", "garbage": "unparsable", "silent": "empty", "hangs": "time-out",
        "closes": "connection", "halves": "connection", "broken": "http-error", "mistaken": "http-error",
        "page": "http-error",
    }  # fmt: skip
    votes = read(folder / "votes.parquet")
    assert Counter(votes.column("annotator")) == done.votes == Counter(good=6, late=6, limited=6)
    assert done.rejected == {name: Counter({reasons[name]: 6} if name in reasons else {}) for name in manners}
    rejects = rejects_of(folder)
    assert [(one["persona"], one["reason"]) for one in rejects] == list(reasons.items()) * 6
    assert [(one["prompt"], one["response"]) for one in rejects[:: len(reasons)]] == ITEMS
    assert len({one["item"] for one in rejects}) == 6
    raw = {one["persona"]: one["raw"] for one in rejects}
    assert (raw["garbage"], raw["marks"], raw["silent"]) == (manners["garbage"], "No.", " \n")
    assert {name for name, text in raw.items() if text is None} == {
        "hangs", "closes", "halves", "broken", "mistaken", "page"
    }  # fmt: skip
    assert all(one["detail"] for one in rejects)
    times = Counter(text.split("|")[0] for text in server.asked)
    assert times["late"] == times["hangs"] == times["broken"] == 12
    assert times["mistaken"] == times["garbage"] == 6
    assert "votes: 18; written to" in done.summary()[1]
    assert "no vote: 60 (" in done.summary()[2]
    assert "18 http-error" in done.summary()[2]
    assert "  'silent': 0 votes, no vote 6 (6 empty)" in done.summary()


def test_the_table_does_not_depend_on_the_order_of_the_answers(folder):
    def slow_first(handler, before):
        time.sleep(0.2 / (1 + handler.server.times.total()))
        return label_by_response(handler, before)

    files = []
    for number, (manner, concurrency) in enumerate([(label_by_response, 1), (slow_first, 8)]):
        out = f"votes{number}.jsonl"
        with chat_server(ann=manner, bo=manner, cy="?") as server:
            simulate(folder, server, "ann", "bo", "cy", out=out, concurrency=concurrency, timeout=5)
            rows = [json.loads(line) for line in (folder / out).read_text().splitlines()]
        # The address is another one, and ids are of a run.
        files.append(([{**row, "id": None} for row in rows], rejects_of(folder, out)))
    assert files[0] == files[1]


def test_a_draw_of_personas_votes_on_each_response(folder):
    names = ("ann", "bo", "cy", "di")
    with chat_server(**dict.fromkeys(names, LABELS[0])) as server:
        simulate(folder, server, *names, per_item=2)
        first = {(row["prompt"], *row["responses"], row["annotator"]) for row in read(folder / "votes.parquet").rows()}
        ids = set(read(folder / "votes.parquet").column("id"))
        simulate(folder, server, *names, per_item=2)
        assert set(read(folder / "votes.parquet").column("id")) == ids, "the same run"
        simulate(folder, server, *names, per_item=2, seed=1)
        other = {(row["prompt"], *row["responses"], row["annotator"]) for row in read(folder / "votes.parquet").rows()}
        assert not ids & set(read(folder / "votes.parquet").column("id")), "another run's votes are other votes"
    assert len(first) == len(other) == 12
    assert set(Counter(who[:2] for who in first).values()) == {2}
    assert first != other


def test_messages_and_labels_of_another_scale(folder):
    said = [{"role": "assistant", "content": "Yes"}]
    row = {"prompt": [{"role": "user", "content": "Tea?"}], "responses": [said], "labels": ["4"]}
    Judgments.from_rows([row], BUILT_IN_SCALES["1-to-5"]).write(folder / "in.parquet")
    with chat_server(ann="2") as server:
        simulate(folder, server, "ann")
    assert server.asked == ["ann|Tea?|Yes"]
    (vote,) = read(folder / "votes.parquet").rows()
    assert (vote["prompt"], vote["responses"], vote["labels"]) == (row["prompt"], row["responses"], [LABELS[1]])


# Runs that did not come to their end.


def test_a_run_that_was_stopped_asks_what_is_missing_and_ends_the_same(folder):
    with chat_server(ann=label_by_response, bo=lambda handler, before: handler.say({}, 404)) as server:
        with pytest.raises(PluralignError) as complaint:
            simulate(folder, server, "ann", "bo", concurrency=1)
        assert "HTTP 404" in str(complaint.value)
        assert "check the address, the model's name and the key" in str(complaint.value)
        assert "1 of 12 answers are kept in" in str(complaint.value)
        assert [one["persona"] for one in rejects_of(folder)] == ["bo"]
        assert not (folder / "votes.parquet").exists()
        partial = folder / "votes.parquet.partial.jsonl"
        with open(partial, "ab") as file:
            file.write(b'{"item": "half a li')  # as a kill may leave it
        server.manners["bo"] = lambda handler, before: (
            label_by_response(handler, before) if "|Yes" in handler.question else handler.say({}, 404)
        )
        with pytest.raises(PluralignError, match=r"3 of 12 answers are kept in"):
            simulate(folder, server, "ann", "bo", concurrency=1)
        asked = len(server.asked)
        server.manners["bo"] = label_by_response
        done = simulate(folder, server, "ann", "bo", concurrency=3, timeout=5)  # how it is asked may change
        assert done.reused == 3
        assert len(server.asked) == asked + 9
        assert names_in(folder) == ["in.parquet", "vote.jinja", "votes.parquet"]
        simulate(folder, server, "ann", "bo", out="undisturbed.parquet")
    assert (folder / "votes.parquet").read_bytes() == (folder / "undisturbed.parquet").read_bytes()


def test_answers_of_another_run_are_neither_used_nor_thrown_away(folder):
    with chat_server(ann=label_by_response, bo=status(404)) as server:
        with pytest.raises(PluralignError):
            simulate(folder, server, "ann", "bo", concurrency=1)
        partial = folder / "votes.parquet.partial.jsonl"
        before = partial.read_bytes()
        for change in ({"seed": 1}, {"temperature": 0.0}, {"max_new_tokens": 5}, {"endpoint_model": "other"}):
            with pytest.raises(PluralignError, match=f"another run \\({next(iter(change))} differ\\)"):
                simulate(folder, server, "ann", "bo", **change)
        with pytest.raises(PluralignError, match=r"another run \(personas differ\)"):
            simulate(folder, server, "ann", "cy")
        assert partial.read_bytes() == before
        partial.write_bytes(before + b'{"item": 5}\n')
        with pytest.raises(PluralignError, match=r"partial.jsonl, line 3: not an answer of a run"):
            simulate(folder, server, "ann", "bo")


def test_a_server_that_never_answers_is_given_up(folder):
    with chat_server(ann=status(400, b"too bad")) as server:
        Judgments.from_rows([{**ROWS[1], "prompt": str(number)} for number in range(40)]).write(folder / "in.parquet")
        with pytest.raises(
            PluralignError, match=r"no answer to 20 questions in a row \(the last: 'HTTP 400: too bad'\)"
        ):
            simulate(folder, server, "ann", concurrency=1)
        assert len(server.asked) in (20, 21)  # one may be on its way
    assert len(rejects_of(folder)) == persona_voters.GIVE_UP
    assert names_in(folder) == ["in.parquet", "vote.jinja", "votes.parquet.rejects.jsonl"]


def test_a_server_that_answers_some_is_not_given_up(folder):
    rows = [{**ROWS[1], "prompt": str(number)} for number in range(40)]
    Judgments.from_rows(rows).write(folder / "in.parquet")

    def picky(handler, before):
        return LABELS[0] if "|0|" in handler.question else handler.say({}, 400)

    with chat_server(ann=picky) as server:
        done = simulate(folder, server, "ann", concurrency=1)
    assert (done.votes.total(), done.reasons) == (2, Counter({"http-error": 78}))


def test_many_personas_without_an_answer_on_one_response_do_not_end_the_run(folder):
    names = [f"p{number}" for number in range(25)]

    def busy(handler, before):
        return handler.say({}, 503) if "|Tea?|Yes" in handler.question else LABELS[0]

    with chat_server(**dict.fromkeys(names, busy)) as server:
        done = simulate(folder, server, *names, retries=0)
    assert (done.votes.total(), done.reasons) == (125, Counter({"http-error": 25}))


def test_without_any_vote_there_is_one_error_after_the_rejects(folder):
    (folder / "votes.parquet").write_text("old")
    expected = r"none of the 12 questions gave a vote \(6 unparsable, 6 empty\)"
    with chat_server(ann="hm", bo="") as server, pytest.raises(PluralignError, match=expected):
        simulate(folder, server, "ann", "bo")
    assert Counter(one["reason"] for one in rejects_of(folder)) == {"unparsable": 6, "empty": 6}
    assert (folder / "votes.parquet").read_text() == "old"
    assert "votes.parquet.partial.jsonl" not in names_in(folder)


def test_rejects_of_an_earlier_run_go(folder):
    (folder / "votes.parquet.rejects.jsonl").write_text("old")
    with chat_server(ann=LABELS[0]) as server:
        simulate(folder, server, "ann")
    assert "votes.parquet.rejects.jsonl" not in names_in(folder)


def test_the_key_is_in_no_file(folder, monkeypatch):
    monkeypatch.setenv("PLURALIGN_API_KEY", "sk-secret")
    echo = lambda handler, before: f"{handler.headers['Authorization']}"  # noqa: E731
    with chat_server(ann=echo, bo=LABELS[0]) as server:
        simulate(folder, server, "ann", "bo")
        assert {headers["Authorization"] for _, headers, _ in server.requests} == {"Bearer sk-secret"}
        server.manners["bo"] = status(404)
        with pytest.raises(PluralignError):
            simulate(folder, server, "ann", "bo", out="stopped.parquet", concurrency=1)
    assert "stopped.parquet.partial.jsonl" in names_in(folder)
    assert rejects_of(folder)[0]["raw"] == "Bearer ***"
    assert not [path.name for path in folder.iterdir() if b"secret" in path.read_bytes()]


def test_killed_with_no_warning_and_started_again(folder):
    people = write_people(folder, "ann", "bo")
    slow = lambda handler, before: (time.sleep(0.15), label_by_response(handler, before))[1]  # noqa: E731
    with chat_server(ann=slow, bo=slow) as server:
        words = ["votes", "simulate", folder / "in.parquet", "--personas", people, "--label-scale", "hh-6"]
        words += ["--endpoint", server.url, "--endpoint-model", "tiny", "--template", folder / "vote.jinja"]
        words += ["--concurrency", 2, "--out", folder / "votes.parquet"]
        command = [sys.executable, "-m", "pluralign", *map(str, words)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        partial = folder / "votes.parquet.partial.jsonl"
        end = time.monotonic() + 60
        while time.monotonic() < end and not (partial.exists() and partial.read_bytes().count(b"\n") >= 4):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        kept = partial.read_bytes().count(b"\n") - 1
        assert 3 <= kept < 12
        time.sleep(0.3)  # what was on its way comes to nothing
        asked = len(server.asked)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"questions: 12, {kept} of them answered before" in done.stdout
        assert len(server.asked) == asked + 12 - kept
        simulate(folder, server, "ann", "bo", out="undisturbed.parquet", timeout=5)
    assert (folder / "votes.parquet").read_bytes() == (folder / "undisturbed.parquet").read_bytes()


# A model in memory.


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A random model of single signs: some of its answers are labels, others are not, and some say nothing."""
    folder = tmp_path_factory.mktemp("letters")
    signs = "abcdefghijklmnopqrstuvwxyz?!|. "
    vocabulary = {word: index for index, word in enumerate(["<|pad|>", "<|end|>", *signs])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.model_max_length = 48
    fast.save_pretrained(folder / "tokenizer")
    return write_model("llama", folder / "tokenizer", folder / "model")


def local(folder, model, out="votes.parquet", **options):
    people = [Persona(name, "Somebody.") for name in ("ann", "bo", "cy")]
    settings = {"personas": people, "label_scale": LETTERS, "template": folder / "vote.jinja", "max_new_tokens": 1}
    return simulate_votes(folder / "in.parquet", folder / out, model=model, **settings | options)


@pytest.fixture
def many(folder):
    rows = [{"prompt": f"{number}", "responses": ["Yes", "No"], "ranks": [1, 2]} for number in range(20)]
    Judgments.from_rows(rows).write(folder / "in.parquet")
    return folder


def test_a_model_in_memory_votes_as_its_own_samples_say(many, letters):
    done = local(many, letters, seed=3)
    votes, rejects = list(read(many / "votes.parquet").rows()), rejects_of(many)
    assert len(votes) + len(rejects) == done.asked == 120
    assert votes
    assert {one["reason"] for one in rejects} <= {"unparsable", "empty"}
    policy = pluralign.load_policy(letters, device="cpu")
    asked = [
        f"{name}|{number}|{response}"
        for number in range(20)
        for response in ("Yes", "No")
        for name in ("ann", "bo", "cy")
    ]
    asker = persona_voters.Asker(None, [], 1.0, 1, 3)
    drawn = policy.sample(asked, max_new_tokens=1, seed=asker.seed_of("chunk", 0))
    said = {text: sample.response for text, (sample,) in zip(asked, drawn, strict=True)}
    for vote in votes:
        assert (
            said.pop(f"{vote['annotator']}|{vote['prompt']}|{vote['responses'][0]}").strip(" .?!|") == vote["labels"][0]
        )
    assert said == {f"{one['persona']}|{one['prompt']}|{one['response']}": one["raw"] for one in rejects}
    local(many, letters, out="again.parquet", seed=3)
    assert (many / "again.parquet").read_bytes() == (many / "votes.parquet").read_bytes()
    local(many, letters, out="other.parquet", seed=4)
    assert read(many / "other.parquet").column("labels") != read(many / "votes.parquet").column("labels")


def test_a_model_that_was_stopped_goes_on_with_the_next_chunk(many, letters, monkeypatch):
    monkeypatch.setattr(persona_voters, "_CHUNK", 50)
    local(many, letters, out="undisturbed.parquet")
    sample, calls = Policy.sample, []

    def stopped(self, prompts, **options):
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(self, prompts, **options)

    monkeypatch.setattr(Policy, "sample", stopped)
    with pytest.raises(KeyboardInterrupt):
        local(many, letters)
    partial = many / "votes.parquet.partial.jsonl"
    lines = partial.read_bytes().splitlines(keepends=True)
    assert len(lines) == 101
    partial.write_bytes(b"".join(lines[:-1]) + lines[-1][:9])  # killed while the chunk was written
    done = local(many, letters)
    assert calls == [50, 50, 20, 50, 20]
    assert done.reused == 99
    for ending in ("", ".rejects.jsonl"):
        assert (many / f"votes.parquet{ending}").read_bytes() == (many / f"undisturbed.parquet{ending}").read_bytes()


def test_questions_that_do_not_fit_are_not_cut(folder, letters):
    rows = [*ROWS, {"prompt": "x" * 40, "responses": ["Yes"], "ranks": [1]}]
    Judgments.from_rows(rows).write(folder / "in.parquet")
    with pytest.raises(PluralignError) as complaint:
        local(folder, letters, label_scale=LabelScale("strange", ("\u00e4", "\u00f6"), (1, 0)), max_new_tokens=2)
    assert "3 too-long" in str(complaint.value)
    long = [one for one in rejects_of(folder) if one["reason"] == "too-long"]
    assert [(one["persona"], one["raw"]) for one in long] == [("ann", None), ("bo", None), ("cy", None)]
    assert long[0]["detail"] == "48 tokens, but only 46 fit with an answer of 2"


def test_a_tiny_random_model_gives_rejects_alone(folder, tiny_model):
    with pytest.raises(PluralignError, match=r"none of the 18 questions gave a vote"):
        local(folder, tiny_model, label_scale="hh-6", max_new_tokens=8)
    rejects = rejects_of(folder)
    assert len(rejects) == 18
    assert {one["reason"] for one in rejects} <= {"unparsable", "empty"}
    assert names_in(folder) == ["in.parquet", "vote.jinja", "votes.parquet.rejects.jsonl"]


def test_chat_models_get_a_message(folder, letters, tmp_path):
    policy = pluralign.load_policy(letters, device="cpu")
    policy.tokenizer.chat_template = "{% for one in messages %}<{{ one['content'] }}>{% endfor %}"
    policy.model.save_pretrained(tmp_path / "chat")
    policy.tokenizer.save_pretrained(tmp_path / "chat")
    done = local(folder, tmp_path / "chat")
    drawn = policy.sample(
        [[{"role": "user", "content": f"{name}|{prompt}|{response}"}] for prompt, response in ITEMS for name in ("ann", "bo", "cy")],
        max_new_tokens=1, seed=persona_voters.Asker(None, [], 1.0, 1, 0).seed_of("chunk", 0),
    )  # fmt: skip
    labels = [sample.response[0]["content"].strip(" .?!|") for (sample,) in drawn]
    assert [row["labels"][0] for row in read(folder / "votes.parquet").rows()] == [
        one for one in labels if one in LETTERS.labels
    ]
    assert done.asked == 18


@pytest.mark.parametrize("chat", [False, True])
def test_a_prior_is_how_the_model_divides_its_reply_when_asked_outright(chat, folder, town_rows, tmp_path):
    """By hand, from the question as it is asked; a response that does not fit is left out and has the uniform prior."""
    rows = [*ROWS, {"prompt": "Long?", "responses": ["word " * 300], "ranks": [1]}]
    Judgments.from_rows(rows).write(folder / "in.parquet")
    texts = [row["prompt"] + text for row in town_rows for text in row["responses"]]
    make_causal_model(texts, tmp_path / "asked", vocab_size=320, hidden_size=32, layers=1, heads=2, context=900)
    policy = pluralign.load_policy(tmp_path / "asked", device="cpu")
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(30)
    if chat:
        policy.tokenizer.chat_template = "{% for one in messages %}<{{ one['content'] }}>{% endfor %}"
    policy.save(tmp_path / "asked")
    prior = tmp_path / "prior.parquet"
    people = [Persona("ann", "Somebody.")]
    with pytest.raises(PluralignError, match="gave a vote"):  # of no persona: the model is random
        simulate_votes(folder / "in.parquet", folder / "votes.parquet", model=tmp_path / "asked", personas=people,
                       label_scale=MOOD, prior=prior, max_new_tokens=4, template=folder / "vote.jinja")  # fmt: skip
    found = read_priors(prior, "labels", "text", MOOD)
    assert list(zip(found.prompt, found.response, strict=True)) == ITEMS
    template = (Path(pluralign.personas.__path__[0]) / "templates" / "outright.jinja").read_text()
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    labels = [vars(one) for one in described_labels(MOOD)]
    tokenizer, plain = policy.tokenizer, policy.model.eval()
    for (prompt, response), shares in zip(ITEMS, found.shares, strict=True):
        question = environment.from_string(template).render(prompt=prompt, response=response, labels=labels).strip()
        assert "2. pass: I have no opinion" in question
        assert question.endswith("Number of the label:")
        begin = f"<{question}>" if chat else question
        log_probs = []
        for number in range(1, 4):
            before, whole = (
                tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (begin, f"{begin}<{number}>" if chat else f"{begin} {number}")
            )
            ids = whole if chat else [*whole, tokenizer.eos_token_id]
            start = [] if chat else tokenizer("")["input_ids"][:1]
            with torch.no_grad():
                logits = plain(torch.tensor([[*start, *ids]])).logits[0, :-1].double().log_softmax(-1)
            each = logits.gather(-1, torch.tensor([*start, *ids])[1:, None])[:, 0]
            log_probs.append(float(each[len(start) + len(before) - 1 :].sum()))
        np.testing.assert_allclose(shares, np.exp(log_probs) / np.exp(log_probs).sum(), rtol=1e-3)
    assert found.shares.std() > 0.05
    with pytest.raises(PluralignError, match="prior: no question fits into the 200 tokens"):
        simulate_votes(folder / "in.parquet", folder / "votes.parquet", model=tmp_path / "asked", personas=people,
                       label_scale=MOOD, prior=prior, max_new_tokens=4, template=folder / "vote.jinja", max_length=200)  # fmt: skip
    votes = Judgments.from_rows([{"prompt": "Tea?", "responses": ["Yes"], "labels": ["agree"]}], MOOD)
    update_votes(tmp_path / "state.parquet", votes, prior=prior, strength=2.0)
    state = read_votes(tmp_path / "state.parquet")
    expected = (2 * found.shares[0] + np.eye(3)[0]) / 3
    np.testing.assert_allclose(state.mean[state.place[item_key("Tea?", "Yes")]], expected, atol=2e-3)


# What is refused.


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"endpoint": None}, "--endpoint and --endpoint-model go together|give either"),
        ({"endpoint_model": None}, "--endpoint and --endpoint-model go together"),
        ({"model": "x"}, "give either --model, or --endpoint"),
        ({"prior": "prior.parquet"}, "prior: is read from probabilities, which a server does not give"),
        ({"prior": "prior.csv"}, "must end in .parquet"),
        ({"temperature": -0.1}, "temperature: found -0.1, expected a finite number, 0 or more"),
        ({"temperature": float("nan")}, "temperature: found nan"),
        ({"max_new_tokens": 0}, "max_new_tokens: found 0, expected 1 or more"),
        ({"retries": -1}, "retries: found -1, expected 0 or more"),
        ({"concurrency": 0}, "concurrency: found 0, expected 1 or more"),
        ({"timeout": 0}, "timeout: found 0, expected a number of seconds above 0"),
        ({"per_item": 3}, "per_item: found 3, expected 1 to 2"),
        ({"label_scale": "hh6"}, "did you mean 'hh-6'"),
        ({"personas": []}, "personas: expected one or more"),
        ({"personas": [Persona("a", "x")] * 2}, "each with a unique name"),
        ({"out": "votes.csv"}, "must end in .parquet"),
        ({"out": "in.parquet"}, "is an input file and would be overwritten"),
        ({"template": "nowhere.jinja"}, "nowhere.jinja: no such file"),
        ({"endpoint": "127.0.0.1:8000"}, "expected an address like"),
    ],
)
def test_bad_settings_are_refused_before_anybody_is_asked(change, expected, folder):
    with chat_server(ann="good", bo="good") as server:
        with pytest.raises(PluralignError) as complaint:
            simulate(folder, server, "ann", "bo", **change)
        assert any(text in str(complaint.value) for text in expected.split("|"))
        assert server.requests == []
    assert names_in(folder) == ["in.parquet", "vote.jinja"]


def test_a_model_draws_at_temperatures_above_zero_and_must_be_there(folder):
    with pytest.raises(PluralignError, match="temperature: found 0, expected a finite number above 0"):
        local(folder, "nowhere", temperature=0)
    with pytest.raises(PluralignError):
        local(folder, folder / "nowhere")
    assert names_in(folder) == ["in.parquet", "vote.jinja"]
