"""`votes simulate` through the command line: what it says, writes and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loopback import chat_server
from pluralign.judgments import read
from pluralign.judgments.votes import read_votes

EXAMPLES = Path(__file__).parents[2] / "examples" / "personas"
ROW = {"prompt": "Tea?", "responses": ["Yes, at the mill.", "No."], "ranks": [1, 2]}


@pytest.fixture
def table(tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps(ROW) + "\n")
    return tmp_path / "in.jsonl"


def words(table, server, *more):
    usual = {
        "--personas": EXAMPLES / "town.yaml", "--label-scale": "hh-6", "--out": table.parent / "votes.parquet",
        "--endpoint": f"{server.url}/v1/", "--endpoint-model": "tiny",
    }  # fmt: skip
    return [
        "votes", "simulate", table, *(word for name, value in usual.items() for word in (name, value)
        if name not in more), *more,
    ]  # fmt: skip


def answer(handler, before):
    """The nurse refuses, the teacher rambles, all others like what is long."""
    if "night" in handler.question or "nurse" in handler.question:
        return "I'm sorry, I can't."
    if "teacher" in handler.question:
        return "Well, well."
    return '{"label": 1}' if "mill" in handler.question else "neutral+harmless"


class Everybody(dict):
    """The same manners, whoever asks."""

    def __missing__(self, name):
        return answer


@pytest.fixture
def server():
    with chat_server() as running:
        running.manners = Everybody()
        yield running


def test_simulate_says_what_came_of_it_and_feeds_a_state(run, table, server, tmp_path):
    code, out, err = run(*words(table, server))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "responses: 2; personas: 5; questions: 10",
        f"votes: 6; written to {tmp_path / 'votes.parquet'}",
        f"no vote: 4 (2 refusal, 2 unparsable); written to {tmp_path / 'votes.parquet.rejects.jsonl'}",
        "  'nurse': 0 votes, no vote 2 (2 refusal)",
        "  'teacher': 0 votes, no vote 2 (2 unparsable)",
    ]
    votes = read(tmp_path / "votes.parquet")
    assert votes.label_scale.name == "hh-6"
    assert votes.column("labels") == [["helpful+harmless"]] * 3 + [["neutral+harmless"]] * 3
    assert votes.column("annotator") == ["programmer", "father", "student"] * 2
    assert run("votes", "update", tmp_path / "state.parquet", tmp_path / "votes.parquet")[0] == 0
    state = read_votes(tmp_path / "state.parquet")
    assert dict(zip(state.response, state.votes.tolist(), strict=True)) == {"Yes, at the mill.": 3.0, "No.": 3.0}


def test_every_option_reaches_the_work(run, table, server, tmp_path):
    (tmp_path / "labels.yaml").write_text("good: it is fine\nbad: it is not\n")
    (tmp_path / "scale.yaml").write_text("name: own\nlabels: {good: 1, bad: 0}\n")
    options = words(table, server)
    options[options.index("hh-6")] = tmp_path / "scale.yaml"
    more = ["--template", EXAMPLES / "vote.jinja", "--descriptions", tmp_path / "labels.yaml", "--per-item", 3]
    more += [
        "--temperature",
        0,
        "--max-new-tokens",
        7,
        "--seed",
        5,
        "--timeout",
        9,
        "--retries",
        0,
        "--concurrency",
        2,
    ]
    code, _, _ = run(*options, *more)
    _, _, body = server.requests[0]
    assert code in (0, 2)  # who is drawn may be none that votes
    assert len(server.requests) == 6
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.0, 7)
    assert "1: good (it is fine)\n2: bad (it is not)\n" in body["messages"][0]["content"]


def test_simulate_complains_in_one_line(run, table, server, tmp_path):
    (tmp_path / "twice.yaml").write_text("- {name: a, description: x}\n- {name: a, description: y}\n")
    (tmp_path / "bad.jinja").write_text("{{ persona.name }} {{ respons }}")
    for more, expected in (
        (["--personas", tmp_path / "twice.yaml"], "twice.yaml, line 2, key '.2': the name 'a' appears twice"),
        (["--template", tmp_path / "bad.jinja"], "bad.jinja: unknown name 'respons' (did you mean 'response'?)"),
        (["--label-scale", "hh6"], "label scale 'hh6' is neither built in"),
        (["--model", "x"], "give either --model, or --endpoint with --endpoint-model"),
        (["--per-item", 9], "per_item: found 9, expected 1 to 5"),
        (["--endpoint", "somewhere"], "endpoint: found 'somewhere', expected an address like"),
    ):
        code, out, err = run(*words(table, server, *more))
        assert (code, out) == (2, "")
        assert expected in err
        assert len(err.splitlines()) == 1
    assert server.requests == []
    assert not (tmp_path / "votes.parquet").exists()


def test_a_prior_is_written_beside_the_votes(run, table, tiny_model, tmp_path):
    """Of a model whose context is too short for the question: the option arrives, and one line says what to do."""
    given = [
        table,
        "--personas",
        EXAMPLES / "town.yaml",
        "--label-scale",
        "binary",
        "--out",
        tmp_path / "votes.parquet",
    ]
    code, _, err = run("votes", "simulate", *given, "--model", tiny_model, "--prior", tmp_path / "prior.parquet")
    assert code == 2
    assert "prior: no question fits into the 96 tokens" in err


def test_an_endpoint_needs_no_heavy_library(table, server):
    code = f"import sys; sys.argv = ['pluralign', *{[str(word) for word in words(table, server)]!r}]\n"
    code += "from pluralign.cli.main import main\ntry: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
    code += "heavy = {'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
