"""A server of a run's adapters against `load_policy`: a stand-in on this machine that speaks as vLLM does."""

import contextlib
import json
import runpy
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import peft
import pytest
import torch
import transformers

import pluralign
from objective_runs import written
from pluralign.core.errors import PluralignError
from pluralign.workflows.serving import compare_served
from pluralign.workflows.train.run import train

CHECK = Path(__file__).parents[2] / "examples" / "serving" / "check.py"


class Handler(BaseHTTPRequestHandler):
    """Completions of token ids with `prompt_logprobs`, by transformers and PEFT alone."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        answer = self.server.answer(body)
        data = json.dumps(answer).encode()
        self.send_response(200 if "choices" in answer else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""


@contextlib.contextmanager
def served(base, adapters):
    """A server of a base and of adapters by name."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    for name, folder in adapters.items():
        if isinstance(model, peft.PeftModel):
            model.load_adapter(folder, adapter_name=name)
        else:
            model = peft.PeftModel.from_pretrained(model, folder, adapter_name=name)
    model.eval()
    lock = threading.Lock()

    def answer(body):
        if body["model"] not in (*adapters, "base"):
            return {"error": {"message": f"The model `{body['model']}` does not exist."}}
        ids = torch.tensor([body["prompt"]])
        with lock, torch.no_grad():
            off = contextlib.nullcontext()
            if body["model"] == "base":
                off = model.disable_adapter()
            else:
                model.set_adapter(body["model"])
            with off:
                log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        given = [{str(token): {"logprob": float(row[token]), "rank": 1, "decoded_token": ""}}
                 for row, token in zip(log_probs[:-1], body["prompt"][1:], strict=True)]  # fmt: skip
        return {"choices": [{"index": 0, "text": "", "prompt_logprobs": [None, *given]}]}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answer, server.requests = answer, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def address(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def people(town_rows, tiny_model, tmp_path_factory):
    """A run with two types, and its judgments."""
    folder = tmp_path_factory.mktemp("people")
    rows = [row | {"group": "xy"[number % 9 % 2]} for number, row in enumerate(town_rows[:24])]
    pluralign.Judgments.from_rows(rows).write(folder / "ranked-train.parquet")
    values = {"eval_files": None, "max_steps": 3, "rounds": 0, "learning_rate": 5e-2}
    train(written("em-dpo", folder, tiny_model, folder / "run", **values))
    return folder


def types_of(people, *names):
    return {f"type-{place + 1}": people / "run" / name for place, name in enumerate(names)}


def check(people, server, *flags):
    """The exit code of the script; a message where there is one."""
    given = [str(CHECK), str(people / "run"), str(people / "ranked-train.parquet"), "--server", server, *flags]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", given)
        try:
            runpy.run_path(str(CHECK), run_name="__main__")
        except SystemExit as end:
            return end.code
    return 0


def test_each_type_s_log_probabilities_are_those_of_the_server(people, tiny_model, capsys):
    with served(tiny_model, types_of(people, "type-1", "type-2")) as server:
        found = compare_served(
            people / "run", people / "ranked-train.parquet", address(server), base="base", most=9, device="cpu"
        )
        assert [(one.name, one.responses) for one in found] == [("type-1", 9), ("type-2", 9), ("base", 9)]
        assert all(one.largest_difference < 1e-5 for one in found)
        path, body = server.requests[0]
        assert path == "/v1/completions"
        assert body.keys() == {"model", "prompt", "max_tokens", "temperature", "prompt_logprobs"}
        assert check(people, address(server) + "/v1", "--responses", "5") == 0
    assert "type-2: 5 responses" in capsys.readouterr().out


def test_exchanged_adapters_are_seen(people, tiny_model):
    with served(tiny_model, types_of(people, "type-2", "type-1")) as server:
        assert "type-1, type-2: more than 0.001 nats a token apart" in check(people, address(server))


def test_a_plain_policy_is_compared_under_a_name(people, tiny_model):
    with served(tiny_model, types_of(people, "type-1")) as server:
        data = people / "ranked-train.parquet"
        (found,) = compare_served(people / "run" / "type-1", data, address(server), most=4, device="cpu")
        assert (found.name, found.largest_difference < 1e-5) == ("type-1", True)
        with pytest.raises(PluralignError, match="model 'other': HTTP 404: .*does not exist"):
            compare_served(people / "run" / "type-1", data, address(server), model="other", most=1, device="cpu")


def test_a_server_without_log_probabilities_of_prompts_is_named(people, tiny_model):
    with served(tiny_model, types_of(people, "type-1")) as server:
        server.answer = lambda body: {"choices": [{"text": "", "prompt_logprobs": None}]}
        with pytest.raises(PluralignError, match="expected prompt_logprobs of"):
            compare_served(people / "run", people / "ranked-train.parquet", address(server), most=1, device="cpu")
