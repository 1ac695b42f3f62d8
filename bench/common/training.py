"""Training runs that several benchmarks share: quiet settings, models trained from scratch, random models."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from pluralign.judgments import Judgments

from .results import OUT

QUIET: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
"""No checkpoints, no progress bar."""

SILENT: dict[str, Any] = QUIET | {"logging_steps": 100_000}
"""Nothing is written or shown while the clock runs."""

PLAIN: dict[str, Any] = QUIET | {"bf16": False, "gradient_checkpointing": False}
"""The same arithmetic in TRL's trainers and in ours."""

HALF: dict[str, Any] = {"bf16": True, "use_cpu": not torch.cuda.is_available()}
"""Mixed precision in bfloat16, which some processors multiply faster too."""

EM_DPO: dict[str, Any] = {
    "types": 3, "learning_rate": 2e-3, "lr_scheduler_type": "cosine", "beta": 1.0, "per_device_train_batch_size": 8,
}  # fmt: skip
"""EM-DPO on simulated towns; everything else is the default."""

LORA = {"r": 8, "lora_alpha": 8, "target_modules": "all-linear"}


def lora() -> Any:
    import peft

    return peft.LoraConfig(**LORA)


def temporary(**settings: Any) -> dict[str, Any]:
    """Trainer settings with an output folder that nobody reads."""
    return {"output_dir": tempfile.mkdtemp(), **settings}


def trained(folder: Path, model: Path | str, train_file: Path, **config: Any) -> dict[str, Any]:
    """The metrics of a run of `pluralign train` into a folder; a run that is finished there is not repeated."""
    from pluralign.workflows.train.run import train

    settings = {
        "model_name_or_path": str(model), "output_dir": str(folder), "train_files": [str(train_file)],
        "lr_scheduler_type": "cosine", **QUIET, **config,
    }  # fmt: skip
    file = folder.with_name(f"{folder.name}.yaml")
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return train(file)


def from_scratch(
    folder: Path, judgments: Judgments, texts: Iterable[str], shape: dict[str, Any], **config: Any
) -> dict[str, Any]:
    """The metrics of a causal model trained by SFT on all responses of a table; its tokenizer is learned from texts."""
    from pluralign.demo.from_scratch import make_causal_model

    folder.parent.mkdir(parents=True, exist_ok=True)
    untrained, data = folder.with_name(f"{folder.name}-untrained"), folder.with_name(f"{folder.name}.parquet")
    make_causal_model(list(texts), untrained, **shape)
    judgments.write(data)
    settings = {"objective": "sft", "responses": "all", "per_device_train_batch_size": 32, **config}
    return trained(folder, untrained, data, **settings)


def all_texts(judgments: Judgments) -> list[str]:
    """Prompts and responses of every judgment."""
    return [text for row in judgments.rows() for text in [row["prompt"], *row["responses"]]]


TOWN_MODEL = OUT / "town-language-model"


def town_language_model() -> Path:
    """A Llama of half a million parameters that has read the responses of another simulated town.

    The first process that asks trains it; others wait.
    """
    from pluralign.judgments.population import Town, simulate

    OUT.mkdir(exist_ok=True)
    with open(OUT / "town-language-model.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (TOWN_MODEL / "metrics.json").exists():
            judgments = simulate(Town(annotators=120, judgments_per_annotator=16, responses=3, seed=1000)).judgments
            shape = {"vocab_size": 1024, "hidden_size": 96, "layers": 3, "heads": 4, "context": 160}
            from_scratch(
                TOWN_MODEL, judgments, all_texts(judgments), shape, learning_rate=3e-3, num_train_epochs=2,
                max_length=160,
            )  # fmt: skip
    return TOWN_MODEL


# Random texts of known lengths, and an untrained model that reads them.


@dataclass(frozen=True)
class Task:
    """Judgments of one shape; `crowd` of them on the same responses to a prompt."""

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
            responses = [texts[index] for index in shown]
            rows.append({"prompt": prompt, "responses": responses, "ranks": [*range(1, task.ranking + 1)]})
    return rows


def random_llama(hidden: int, layers: int, vocabulary: int) -> Path:
    """The folder of an untrained Llama with one token per word."""
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


def freeze_lower_layers(model: Any, layers: int) -> None:
    """Freeze the embeddings and so many lower layers of a reward model on BERT."""
    for part in (model.bert.embeddings, *model.bert.encoder.layer[:layers]):
        part.requires_grad_(False)
