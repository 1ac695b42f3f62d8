"""Cost of a step: prompt trees against flat rows and against TRL, on synthetic texts of known lengths.

Every measurement is a process of its own, so that its peak memory is its own; the methods of a task run one after
the other and the whole is repeated, so that a ratio compares neighbours in time. A step's time is from the end of
one optimiser step to the end of the next, loading of the batch included; the first steps are left out. All methods
of a task see the same judgments in the same number of steps; reference log-probabilities are computed beforehand.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import OUT, in_own_process, store


@dataclass(frozen=True)
class Task:
    """Judgments of one shape; `crowd` of them on the same responses of a prompt."""

    name: str
    prompt: int
    response: int
    ranking: int = 2
    responses: int = 2
    crowd: int = 1
    ragged: bool = False
    judgments: int = 8
    """In a micro-batch."""
    accumulation: int = 2
    vocabulary: int = 32000


TASKS = {
    "rankings": Task("rankings of 4, prompt 192 + response 48", 192, 48, ranking=4, responses=4, judgments=6,
                     accumulation=4),
    "long-prompt": Task("pairs, prompt 256 + 64", 256, 64, judgments=12),
    "ragged": Task("pairs, prompt 16 + 128, ragged", 16, 128, ragged=True, judgments=16),
    "crowd": Task("10 judgments on the same 4 responses, 192 + 48", 192, 48, responses=4, crowd=10, judgments=20,
                  accumulation=4),
    "rankings-small": Task("rankings of 4, 192 + 48, vocabulary of 8,192", 192, 48, ranking=4, responses=4,
                           judgments=6, accumulation=4, vocabulary=8192),
    "crowd-small": Task("10 judgments on the same 4, 192 + 48, vocabulary of 8,192", 192, 48, responses=4, crowd=10,
                        judgments=20, accumulation=4, vocabulary=8192),
}  # fmt: skip
TREES, FLAT, SAME_ROWS, TRL = "ours, trees", "ours, flat, each text once", "ours, flat, TRL's rows", "TRL"


def rows_of(task: Task, steps: int, seed: int = 0) -> list[dict[str, Any]]:
    """The judgments of some steps."""
    draw = np.random.default_rng(seed)

    def text(length: int) -> str:
        if task.ragged:
            length = int(draw.integers(length // 4, 2 * length - length // 4))
        return " ".join(f"w{word}" for word in draw.integers(1000, task.vocabulary - 2, max(length, 1)))

    rows: list[dict[str, Any]] = []
    while len(rows) < steps * task.judgments * task.accumulation:
        prompt = text(task.prompt) + " "
        # One token less: the end token belongs to a response.
        texts = [text(task.response - 1) for _ in range(task.responses)]
        for _ in range(task.crowd):
            shown = draw.choice(task.responses, task.ranking, replace=False)
            rows.append({"prompt": prompt, "responses": [texts[index] for index in shown],
                         "ranks": list(range(1, task.ranking + 1))})  # fmt: skip
    return rows


def pairs_of(task: Task, steps: int) -> list[dict[str, str]]:
    """The adjacent pairs of every ranking: one row each, as TRL takes them."""
    return [
        {"prompt": row["prompt"], "chosen": better, "rejected": worse}
        for row in rows_of(task, steps)
        for better, worse in zip(row["responses"], row["responses"][1:], strict=False)
    ]


def make_model(hidden: int, layers: int, vocabulary: int) -> Path:
    """An untrained Llama with one token to a word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = OUT / f"llama-{hidden}-{layers}-{vocabulary}"
    if (folder / "model.safetensors").exists():
        return folder
    words = {f"w{number}": number for number in range(vocabulary - 2)}
    words |= {"<end>": vocabulary - 2, "<pad>": vocabulary - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    fast.model_max_length = 4096
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=vocabulary - 2, pad_token_id=vocabulary - 1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def measure(task: Task, objective: str, method: str, steps: int, warm: int, model: Path) -> dict[str, float]:
    """Seconds a step, its spread, and the process's peak memory in GiB."""
    import transformers

    ends: list[float] = []

    class Ends(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    total = warm + steps
    make = _trl if method == TRL else _ours
    trainer = make(task, objective, method, total, model)
    trainer.add_callback(Ends())
    trainer.train()
    seconds = np.diff(ends)[warm - 1 :]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": float(seconds.mean()), "spread": float(seconds.std()), "peak": peak}


def _common(task: Task, steps: int, batch: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": batch, "max_steps": steps,
        "gradient_accumulation_steps": task.accumulation, "learning_rate": 1e-5, "report_to": "none",
        "save_strategy": "no", "logging_steps": 1000, "disable_tqdm": True, "max_length": None,
        "train_sampling_strategy": "sequential", "bf16": False, "gradient_checkpointing": False,
    }  # fmt: skip


def _ours(task: Task, objective: str, method: str, steps: int, model: Path) -> Any:
    import torch

    import pluralign

    values = _common(task, steps, task.judgments) | {"layout": "tree" if method == TREES else "flat"}
    rows = rows_of(task, steps)
    if method == SAME_ROWS:
        # A first word of its own for every pair, so that no two of them share a text.
        rows = [
            {"prompt": f"w{index % 1000} {row['prompt'].split(' ', 1)[1]}", "ranks": [1, 2],
             "responses": [row["chosen"], row["rejected"]]}
            for index, row in enumerate(pairs_of(task, steps))
        ]  # fmt: skip
        values["per_device_train_batch_size"] *= task.ranking - 1
    judgments = pluralign.Judgments.from_rows(rows)
    if objective == "dpo":
        return pluralign.DPOTrainer(str(model), pluralign.DPOConfig(**values), judgments)
    values["model_init_kwargs"] = {"dtype": torch.float32}
    return pluralign.BradleyTerryTrainer(str(model), pluralign.BradleyTerryConfig(**values), judgments)


def _trl(task: Task, objective: str, method: str, steps: int, model: Path) -> Any:
    import datasets
    import trl

    values = _common(task, steps, task.judgments * (task.ranking - 1))
    dataset = datasets.Dataset.from_list(pairs_of(task, steps))
    if objective == "dpo":
        args = trl.DPOConfig(**values, precompute_ref_log_probs=True)
        return trl.DPOTrainer(str(model), args=args, train_dataset=dataset)
    return trl.RewardTrainer(str(model), trl.RewardConfig(**values), train_dataset=dataset)


def measured(given: dict[str, Any]) -> dict[str, float]:
    """`measure` in a process of its own, which finds nothing in a cache."""
    return in_own_process(__file__, given, PLURALIGN_CACHE=tempfile.mkdtemp())


def job(task: Task, objective: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    model = make_model(options.hidden, options.layers, task.vocabulary)
    return {"task": asdict(task), "objective": objective, "method": method, "model": str(model),
            "steps": options.steps, "warm": options.warm}  # fmt: skip


def table(options: argparse.Namespace) -> None:
    """Every task with every method, `repeats` times in turn."""
    found = []
    for task in TASKS.values():
        shares = task.responses > 2
        for objective in ("dpo",) if shares else ("dpo", "reward"):
            methods = [TREES, FLAT, SAME_ROWS, TRL] if shares else [TREES, FLAT, TRL]
            runs: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
            for _ in range(options.repeats):
                for method in methods:
                    runs[method].append(measured(job(task, objective, method, options)))
                    print(task.name, objective, method, runs[method][-1], flush=True)
            found.append({"task": task.name, "objective": objective, "runs": runs})
            store("speed", {"options": vars(options), "rows": found})


def curves(options: argparse.Namespace) -> None:
    """How the ratios move with what is shared."""
    points = {
        "judgments on the same 4 responses, 192 + 48": [
            (count, Task("", 192, 48, responses=4, crowd=count, judgments=count)) for count in (1, 5, 20, 50)
        ],
        "responses in a ranking, 192 + 48": [
            (count, Task("", 192, 48, ranking=count, responses=count, judgments=max(1, 12 // count)))
            for count in (2, 4, 16, 64)
        ],
        "prompt's share of 320 tokens, pairs": [
            (share, Task("", int(320 * share), 320 - int(320 * share), judgments=8)) for share in (0.1, 0.5, 0.9)
        ],
    }
    found: dict[str, list[Any]] = {}
    for name, tasks in points.items():
        found[name] = []
        for value, task in tasks:
            once = Task(**{**asdict(task), "accumulation": 1})
            methods = (TREES, SAME_ROWS, TRL)
            seconds = {method: measured(job(once, "dpo", method, options))["seconds"] for method in methods}
            found[name].append({"value": value, **seconds})
            print(name, found[name][-1], flush=True)
            store("speed_curves", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--warm", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--curves", action="store_true", help="the curves instead of the table")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        given = json.loads(options.job)
        given |= {"task": Task(**given["task"]), "model": Path(given["model"])}
        print(json.dumps(measure(**given)))
    elif options.curves:
        curves(options)
    else:
        table(options)


if __name__ == "__main__":
    main()
