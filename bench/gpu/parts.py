"""The parts of the measurement, each of which stores what it has found after every result."""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

import pluralign
from pluralign.scoring.adapters import merged
from pluralign.scoring.causal_models import CausalModel, causal_model
from pluralign.scoring.forward import block_values
from pluralign.scoring.items import items_of
from pluralign.scoring.probe import choose_layout, plain_model
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import Layout, lay_out, plan_rows

from ..common.training import PLAIN, Task, rows_of, temporary
from .models import SHAPES, SMALL, Shape, peak_of, random_model, tokenizer_of, weights_of

Store = Callable[[dict[str, Any]], None]
"""Takes a part's results so far."""

WARM = 2
"""Steps that are left out: kernels are chosen and compiled in them."""


class Machine:
    """The device, and how large everything is on it."""

    def __init__(self, small: bool, folder: Path) -> None:
        self.small = small
        self.folder = folder
        self.cuda = torch.cuda.is_available() and not small
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.steps = 4 if self.cuda else 1
        self.warm = WARM if self.cuda else 1
        self.sizes = ("tiny",) if small else ("135M", "1B")

    def described(self) -> dict[str, Any]:
        """Names and versions."""
        import importlib.metadata

        found = {"name": torch.cuda.get_device_name() if self.cuda else "CPU", "torch": torch.__version__}
        for name in ("transformers", "trl", "peft", "accelerate", "liger-kernel", "pluralign"):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = pluralign.__version__ if name == "pluralign" else "none"
        return found

    def shape(self, name: str) -> Shape:
        """A model's shape; all are tiny where everything is small."""
        return replace(SMALL, name=name) if self.small else SHAPES[name]

    def task(self, name: str, shape: Shape) -> Task:
        """A task in the vocabulary of a shape."""
        task = replace(TASKS[name], vocabulary=shape.vocabulary)
        if self.small:
            return replace(task, prompt=12, response=6, judgments=min(task.judgments, 4))
        return task

    def now(self) -> float:
        """Seconds, once the device has finished."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def clean(self) -> Iterator[None]:
        """Memory is empty before and after, and its peak is counted from here."""
        self._empty()
        try:
            yield
        finally:
            self._empty()

    def _empty(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_memory(self) -> float | None:
        """GiB on the device since `clean`."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.cuda else None


TASKS = {
    "pairs": Task("pairs, prompt 256 + 64", 256, 64, judgments=32, accumulation=1),
    "rankings of 4": Task("rankings of 4, prompt 192 + 48", 192, 48, 4, 4, judgments=16, accumulation=1),
    "crowd votes": Task("10 votes on the same 4 responses, 192 + 48", 192, 48, 2, 4, 10, judgments=60, accumulation=1),
}


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def attempt(found: dict[str, Any], name: str, measure: Callable[[], Any], store: Store) -> None:
    """Store a result under its name, or what went wrong."""
    try:
        found[name] = measure()
    except Exception as fault:
        found[name] = {"error": f"{type(fault).__name__}: {fault}"[:500], "log": traceback.format_exc()[-2000:]}
    store(found)


# Exactness: prompt trees against flat rows.


def exactness(machine: Machine, store: Store) -> None:
    """Log-probabilities and gradients of trees, with FlexAttention and SDPA, against flat rows."""
    found: dict[str, Any] = {}
    shape = machine.shape("135M")
    for dtype in (torch.float32, torch.bfloat16):
        for adapter in (False, True):
            name = f"{str(dtype).removeprefix('torch.')}, {'LoRA' if adapter else 'all weights'}"
            attempt(found, name, functools.partial(_compared, machine, shape, dtype, adapter), store)
    attempt(found, "chosen", functools.partial(_chosen, machine, shape), store)


def _texts(machine: Machine, shape: Shape, policy: CausalModel) -> TokenizedItems:
    task = replace(machine.task("rankings of 4", shape), ragged=True, judgments=4)
    return policy.tokenize(items_of(pluralign.Judgments.from_rows(rows_of(task, 1))))


def _policy(machine: Machine, shape: Shape, dtype: torch.dtype, adapter: bool = False) -> CausalModel:
    model = random_model(shape, dtype, machine.device)
    if adapter:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False))
    return causal_model(model, tokenizer_of(shape))


def _layouts(machine: Machine, policy: CausalModel) -> dict[str, tuple[Layout, str]]:
    """Layouts with the attention that they need; flat rows, the measure of all, come first."""
    flat = Layout("tokens", policy.tokenizer.pad_token_id, block_tokens=float("inf"))
    tree = replace(flat, tree=True)
    layouts = {"flat rows": (flat, "sdpa"), "trees, SDPA": (tree, "sdpa")}
    if machine.cuda:  # the compiled kernels; on a CPU they have no backward pass
        layouts["trees, FlexAttention"] = (replace(tree, mask="blocks"), "flex_attention")
    return layouts


def _read(policy: CausalModel, tokens: TokenizedItems, layout: Layout) -> torch.Tensor:
    """log pi(y|x) of every response, in their order, with its graph."""
    rows = plan_rows(tokens, np.arange(len(tokens.item)), layout)
    device = next(policy.model.parameters()).device
    block = {name: value.to(device) for name, value in lay_out(tokens, rows, layout).items()}
    return block_values(policy.model, block, layout)[block["response"].argsort()]


def _compared(machine: Machine, shape: Shape, dtype: torch.dtype, adapter: bool) -> dict[str, Any]:
    """Differences to flat rows in float64 sums: of log-probabilities, and of the gradient of a fixed combination."""
    with machine.clean(), full_precision():
        policy = _policy(machine, shape, dtype, adapter)
        policy.model.eval()
        tokens = _texts(machine, shape, policy)
        lengths = torch.tensor([len(ids) for ids in tokens.response_ids], dtype=torch.float64)
        direction = torch.linspace(-1, 1, len(lengths), device=machine.device)
        trained = [weight for weight in policy.model.parameters() if weight.requires_grad]
        values: dict[str, torch.Tensor] = {}
        gradients: dict[str, torch.Tensor] = {}
        found: dict[str, Any] = {}
        for name, (layout, attention) in _layouts(machine, policy).items():
            try:
                plain_model(policy.model).set_attn_implementation(attention)
                read = _read(policy, tokens, layout)
                slopes = torch.autograd.grad(read @ direction.to(read.dtype), trained)
            except Exception as fault:
                found[name] = {"error": f"{type(fault).__name__}: {fault}"[:300]}
                continue
            values[name] = read.detach().double().cpu()
            gradients[name] = torch.cat([slope.detach().flatten().float() for slope in slopes]).cpu()
            del slopes, read
        plain_model(policy.model).set_attn_implementation("sdpa")
        if adapter:
            with torch.no_grad(), merged(policy.model, "default"):
                values["flat rows, merged"] = (
                    _read(policy, tokens, _layouts(machine, policy)["flat rows"][0]).double().cpu()
                )
    base, slope = values["flat rows"], gradients["flat rows"]
    for name, own in values.items():
        if name == "flat rows":
            continue
        found[name] = {"nats_per_token": float(((own - base).abs() / lengths).max()),
                       "relative": float((own - base).norm() / base.norm())}  # fmt: skip
        if name in gradients:
            found[name]["gradient"] = float((gradients[name] - slope).norm() / slope.norm())
    return found


def _chosen(machine: Machine, shape: Shape) -> dict[str, str]:
    """The layout and attention that training chooses by itself."""
    chosen = {}
    for dtype in (torch.float32, torch.bfloat16):
        with machine.clean():
            policy = _policy(machine, shape, dtype)
            tokens = _texts(machine, shape, policy)
            layout = choose_layout(policy.model, tokens, "tokens", policy.tokenizer.pad_token_id, "auto", 4096)
            chosen[str(dtype).removeprefix("torch.")] = f"{'trees' if layout.tree else 'flat'}, mask {layout.mask}"
    return chosen


# Killed and started again.


def resume(machine: Machine, store: Store) -> None:
    """Weights after a run that was killed and started again, against those of an undisturbed run."""
    import safetensors.torch

    found: dict[str, Any] = {}
    folder = machine.folder / "resume"
    folder.mkdir(exist_ok=True)
    shape = machine.shape("resumed")
    random_model(shape, torch.float32, torch.device("cpu")).save_pretrained(folder / "model")
    tokenizer_of(shape).save_pretrained(folder / "model")
    task = machine.task("pairs", shape)
    pluralign.Judgments.from_rows(rows_of(replace(task, judgments=8), 6)).write(folder / "train.parquet")

    def run(name: str, killed: bool) -> int:
        settings = {
            "objective": "dpo", "model_name_or_path": str(folder / "model"), "output_dir": str(folder / name),
            "train_files": [str(folder / "train.parquet")], "max_steps": 6, "save_strategy": "steps", "save_steps": 2,
            "use_peft": True, "lora_target_modules": ["all-linear"], "per_device_train_batch_size": 8,
            "learning_rate": 1e-3, "report_to": "none", "logging_steps": 1, "disable_tqdm": True,
            "use_cpu": not machine.cuda,
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(json.dumps(settings))  # JSON is YAML
        if killed:
            code = f"from bench.gpu.parts import killed_run; killed_run({str(folder / f'{name}.yaml')!r}, 4)"
            return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        from pluralign.workflows.train.run import train

        train(folder / f"{name}.yaml")
        return 0

    def compared() -> dict[str, Any]:
        run("calm", False)
        ended = run("shaken", True)
        if ended != -signal.SIGKILL:
            return {"error": f"the run was to be killed, and ended with exit code {ended}"}
        run("shaken", False)
        one, two = (
            safetensors.torch.load_file(folder / name / "adapter_model.safetensors") for name in ("calm", "shaken")
        )
        return {"largest_difference": max(float((one[key] - two[key]).abs().max()) for key in one)}

    attempt(found, "DPO, LoRA, float32", compared, store)


def killed_run(config: str, steps: int) -> None:
    """Train, and be killed in the middle of a step."""
    from pluralign.workflows.train.run import train

    step, taken = transformers.Trainer.training_step, []

    def killed(self: Any, *given: Any) -> Any:
        taken.append(1)
        if len(taken) == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *given)

    transformers.Trainer.training_step = killed
    train(config)


# Speed.


def speed(machine: Machine, store: Store) -> None:
    """Seconds and memory of a training step: ours and TRL's, shape by shape."""
    found: dict[str, Any] = {}
    for name, kind in _runs():
        for size in machine.sizes:
            attempt(found, f"{size}; {name}", functools.partial(_timed, machine, machine.shape(size), kind), store)


def _runs() -> Iterator[tuple[str, Callable[..., Any]]]:
    """What is timed: its name, `OBJECTIVE; TASK; METHOD`, and what makes the trainer."""
    for task in ("pairs", "rankings of 4", "crowd votes"):
        for method in ("ours, trees", "ours, flat", "TRL", "TRL, Liger"):
            yield f"DPO; {task}; {method}", functools.partial(_dpo, task=task, method=method)
    for method in ("ours, trees", "ours, flat", "TRL"):
        yield f"reward model; pairs; {method}", functools.partial(_reward, task="pairs", method=method)
    yield "EM-DPO, M-step of 2 types; rankings of 4; ours, trees", functools.partial(_em_dpo, task="rankings of 4")
    for method in ("ours", "TRL, no reference"):
        yield f"pm-rlhf; 16 prompts, 4 responses of 32; {method}", functools.partial(_online, method=method)


class NotHere(Exception):
    """A peer that this Python does not have."""


def _timed(machine: Machine, shape: Shape, make: Callable[..., Any]) -> dict[str, Any]:
    """The median step: seconds, tokens, peak memory."""
    with machine.clean():
        try:
            trainer, work = make(machine, shape)
        except (NotHere, ImportError) as fault:
            return {"left_out": str(fault)}
        ends: list[float] = []

        class Ends(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(machine.now())

        trainer.add_callback(Ends())
        trainer.train()
        seconds = median(np.diff(ends)[machine.warm - 1 :].tolist())
        found = {"seconds": seconds, "judged_tokens_a_second": work.judged / seconds}
        found["read_tokens_a_second"] = work.read / seconds
        peak = peak_of(machine.described()["name"])
        found["share_of_peak"] = None if peak is None or not work.operations else work.operations / seconds / peak
        found["peak_gib"] = machine.peak_memory()
        layout = getattr(trainer, "layout", None)
        if isinstance(layout, Layout):
            found["layout"] = f"{'trees' if layout.tree else 'flat'}, mask {layout.mask}"
        return found


def _common(machine: Machine, batch: int, **others: Any) -> dict[str, Any]:
    values = temporary(
        per_device_train_batch_size=batch, max_steps=machine.warm + machine.steps, learning_rate=1e-6,
        logging_steps=1000, **PLAIN,
    )  # fmt: skip
    return values | {"bf16": machine.cuda, "use_cpu": not machine.cuda} | others


def _pairs(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Adjacent pairs of every ranking, as TRL takes them."""
    return [
        {"prompt": row["prompt"], "chosen": better, "rejected": worse}
        for row in rows
        for better, worse in zip(row["responses"], row["responses"][1:], strict=False)
    ]


@dataclass(frozen=True)
class Work:
    """What a step computes.

    Args:
        judged: tokens of the adjacent pairs of its judgments, the same for every method.
        read: tokens in the rows of its method, without padding.
        predicted: tokens whose logits the loss needs.
        operations: floating-point operations, without attention: two a weight and token forwards, two backwards, and
            two for the gradient of a weight that is trained; 0 if they say nothing.
    """

    judged: int
    read: int
    predicted: int = 0
    operations: float = 0.0

    def on(self, model: Any, trained: bool = True) -> Work:
        """With the operations of a model."""
        backbone, head = weights_of(model)
        return replace(self, operations=(6 if trained else 4) * (backbone * self.read + head * self.predicted))


def _work(task: Task, trees: bool | None) -> Work:
    """Of a step, with each text read once in trees or flat rows; `None` reads each pair by itself."""
    pairs = 2 * task.judgments * (task.ranking - 1)
    judged = pairs * (task.prompt + task.response)
    if trees is None:
        return Work(judged, judged, pairs * task.response)
    items = -(-task.judgments // task.crowd)
    prompts, predicted = items * (1 if trees else task.responses), items * task.responses * task.response
    return Work(judged, prompts * task.prompt + predicted, predicted)


def _dtype(machine: Machine) -> torch.dtype:
    return torch.bfloat16 if machine.cuda else torch.float32


def _dpo(machine: Machine, shape: Shape, task: str, method: str) -> tuple[Any, Work]:
    chosen = machine.task(task, shape)
    rows = rows_of(chosen, machine.warm + machine.steps)
    model, tokenizer = random_model(shape, _dtype(machine), machine.device), tokenizer_of(shape)
    if method.startswith("TRL"):
        import datasets
        import trl

        values = _common(machine, chosen.judgments * (chosen.ranking - 1), max_length=None)
        if method == "TRL, Liger":
            _need("liger_kernel", machine)
            values["use_liger_kernel"] = True
        args = trl.DPOConfig(**values, precompute_ref_log_probs=True)
        dataset = datasets.Dataset.from_list(_pairs(rows))
        trainer = trl.DPOTrainer(model, args=args, train_dataset=dataset, processing_class=tokenizer)
        return trainer, _work(chosen, None).on(model)
    trees = method == "ours, trees"
    values = _common(
        machine, chosen.judgments, layout="tree" if trees else "flat", train_sampling_strategy="sequential"
    )
    args = pluralign.DPOConfig(**values)
    trainer = pluralign.DPOTrainer(
        model, args=args, train_dataset=pluralign.Judgments.from_rows(rows), processing_class=tokenizer
    )
    return trainer, _work(chosen, trees).on(model)


def _need(module: str, machine: Machine) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise NotHere(f"{module} is not installed")
    if not machine.cuda:
        raise NotHere(f"{module} needs a GPU")


def _reward(machine: Machine, shape: Shape, task: str, method: str) -> tuple[Any, Work]:
    chosen = machine.task(task, shape)
    rows = rows_of(chosen, machine.warm + machine.steps)
    model, tokenizer = random_model(shape, _dtype(machine), machine.device, reward=True), tokenizer_of(shape)
    if method == "TRL":
        import datasets
        import trl

        args = trl.RewardConfig(**_common(machine, chosen.judgments, max_length=None))
        dataset = datasets.Dataset.from_list(_pairs(rows))
        trainer = trl.RewardTrainer(model, args, train_dataset=dataset, processing_class=tokenizer)
        return trainer, _work(chosen, None).on(model)
    trees = method == "ours, trees"
    values = _common(
        machine, chosen.judgments, layout="tree" if trees else "flat", train_sampling_strategy="sequential"
    )
    args = pluralign.BradleyTerryConfig(**values)
    judgments = pluralign.Judgments.from_rows(rows)
    trainer = pluralign.BradleyTerryTrainer(model, args, train_dataset=judgments, processing_class=tokenizer)
    return trainer, _work(chosen, trees).on(model)


def _em_dpo(machine: Machine, shape: Shape, task: str) -> tuple[Any, Work]:
    chosen = machine.task(task, shape)
    rows = [
        row | {"annotator": f"a{place % 8}", "group": "xy"[place % 2]}
        for place, row in enumerate(rows_of(chosen, machine.warm + machine.steps))
    ]
    model, tokenizer = random_model(shape, _dtype(machine), machine.device), tokenizer_of(shape)
    values = _common(machine, chosen.judgments, types=2, start="groups", rounds=0, features="tfidf")
    args = pluralign.EMDPOConfig(**values)
    trainer = pluralign.EMDPOTrainer(
        model, args=args, train_dataset=pluralign.Judgments.from_rows(rows), processing_class=tokenizer
    )
    return trainer, _work(chosen, True).on(plain_model(trainer.model), trained=False)


def _online(machine: Machine, shape: Shape, method: str) -> tuple[Any, Work]:
    import datasets
    import trl

    from pluralign.training.preference_matching.rlhf import PMRLHFTrainer
    from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig

    model, tokenizer = random_model(shape, _dtype(machine), machine.device), tokenizer_of(shape)
    prompt, response, prompts = (8, 4, 2) if machine.small else (64, 32, 16)
    task = replace(machine.task("pairs", shape), prompt=prompt, judgments=prompts)
    rows = [{"prompt": row["prompt"]} for row in rows_of(task, machine.warm + machine.steps)]
    values = _common(machine, 4 * prompts, num_generations=4, max_completion_length=response, beta=1.0)

    def length(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    dataset = datasets.Dataset.from_list(rows)
    if method != "ours":
        values["beta"] = 0.0  # with a reference it would load a second copy by the model's name, which it has not
        trainer: Any = trl.RLOOTrainer(model, length, trl.RLOOConfig(**values), dataset, processing_class=tokenizer)
    else:
        args = PMRLHFConfig(**values, mode="flattened", alpha=0.1, stop_if_endless=False)
        trainer = PMRLHFTrainer(model, length, args, dataset, processing_class=tokenizer)
    tokens = 4 * prompts * (prompt + response)
    return trainer, Work(tokens, tokens)  # most of a step is drawing, for which a share of the peak says nothing


# The slowest kernels.


def kernels(machine: Machine, store: Store) -> None:
    """The five kernels that take the longest in a step of DPO on trees."""
    found: dict[str, Any] = {}
    for size in machine.sizes:
        for task in ("pairs", "rankings of 4"):
            measure = functools.partial(_slowest, machine, machine.shape(size), task)
            attempt(found, f"{size}; DPO; {task}", measure, store)


def _slowest(machine: Machine, shape: Shape, task: str) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    with machine.clean():
        trainer, *_ = _dpo(machine, shape, task, "ours, trees")
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if machine.cuda else [])]
        whole: list[float] = []
        profiler = profile(activities=activities)

        class Profiled(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
                if state.global_step == machine.warm:
                    profiler.start()
                    whole.append(machine.now())

            def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
                if state.global_step == machine.warm + 1:
                    whole.append(machine.now())
                    profiler.stop()

        trainer.add_callback(Profiled())
        trainer.train()
        time_of = "self_device_time_total" if machine.cuda else "self_cpu_time_total"
        events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, time_of))
        total = sum(getattr(event, time_of) for event in events) or 1.0
        return {
            "step_seconds": whole[1] - whole[0],
            "kernel_seconds": total / 1e6,
            "slowest": [
                {"kernel": event.key[:120], "share": getattr(event, time_of) / total, "calls": event.count}
                for event in events[:5]
            ],
        }


PARTS = {"exactness": exactness, "resume": resume, "speed": speed, "kernels": kernels}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.gpu.parts", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="For models and runs.")
    parser.add_argument("--file", type=Path, required=True, help="The results, part by part.")
    parser.add_argument("--small", action="store_true", help="Tiny models on a CPU.")
    parser.add_argument("parts", nargs="+", choices=PARTS)
    options = parser.parse_args()
    os.environ["PLURALIGN_CACHE"] = tempfile.mkdtemp(dir=options.folder)
    transformers.utils.logging.set_verbosity_error()
    machine = Machine(options.small, options.folder)
    found: dict[str, Any] = {}
    for name in options.parts:

        def store(results: dict[str, Any], name: str = name) -> None:
            found[name] = {"device": machine.described(), "results": results}
            unfinished = options.file.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(found))
            unfinished.replace(options.file)

        try:
            PARTS[name](machine, store)
        except Exception as fault:
            traceback.print_exc()
            store({"whole part": {"error": f"{type(fault).__name__}: {fault}"[:500]}})


if __name__ == "__main__":
    main()
