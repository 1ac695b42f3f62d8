"""One adapter in place of a mixture: fine-tuned from the base on draws from the mixture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pyarrow.parquet as pq
import yaml

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.core.runs import CONFIG
from pluralign.judgments.table import Judgments
from pluralign.policies.loading import load_policy
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.mixtures import read_mixture
from pluralign.workflows.aggregate.answers import seed_of
from pluralign.workflows.train.run import train

DISTILLED = "distilled"
"""The policy among the others, its folder, and what its draws' seed is made of."""

_SETTINGS = (
    "model_revision", "dtype", "attn_implementation", "load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type",
    "use_bnb_nested_quant", "bnb_4bit_quant_storage",
)  # fmt: skip
"""What a run says of its base; whether to run code that comes with it is asked anew, never read from a folder."""


def distill_mixture(
    folder: Path,
    mixture: Path,
    run: Path,
    prompts: Sequence[Any],
    *,
    samples: int,
    max_new_tokens: int,
    epochs: float,
    learning_rate: float,
    seed: int,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Train `distilled/` by the objective `sft` on draws from a mixture; taken up again where it stopped.

    Minimising -log pi(y|x) over draws y of the mixture is minimising KL(mixture || pi). Draws keep their
    multiplicity. A draw that was cut at the limit is left out, as an end token would be learned in its middle,
    and so is an empty one, which a table of judgments cannot hold: what is learned is the mixture given that it
    says something and ends.

    Args:
        folder: gets `draws.parquet`, `distill.yaml` and `distilled/`.
        mixture: what to draw from.
        run: of `em-dpo`; its settings of the model are the adapter's.
        prompts: texts, or lists of messages.
        samples: draws for each prompt.
        max_new_tokens: the longest draw.
        epochs: passes over the draws.
        learning_rate: of AdamW.
        seed: of the draws and of the training.
        trust_remote_code: run code that comes with the model.

    Returns:
        `distill_prompts`, `distill_draws`, `distill_left_out`, `distill_train_loss`.

    Raises:
        PluralignError: the types' adapters are no LoRA adapters, or no draw is left.
    """
    draws = folder / "draws.parquet"
    settings = _lora(mixture)
    if not draws.exists():
        _draw(mixture, prompts, draws, samples, max_new_tokens, seed, trust_remote_code)
    kept = pq.read_metadata(draws).num_rows
    left_out = len(prompts) * samples - kept
    given = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")) if (run / CONFIG).exists() else {}
    config = {
        "objective": "sft",
        "train_files": [str(draws)],
        "output_dir": str(folder / DISTILLED),
        "responses": "draws",
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "seed": seed,
        "report_to": "none",
        **settings,
        **{key: given[key] for key in _SETTINGS if given.get(key) is not None},
    }
    config |= {"trust_remote_code": True} if trust_remote_code else {}
    with atomic_write(folder / "distill.yaml", "w") as file:
        yaml.safe_dump(config, file, allow_unicode=True, sort_keys=False)
    trained = train(folder / "distill.yaml")
    counts = {"distill_prompts": len(prompts), "distill_draws": kept, "distill_left_out": left_out}
    return counts | ({"distill_train_loss": trained["train_loss"]} if "train_loss" in trained else {})


def _draw(
    mixture: Path, prompts: Sequence[Any], file: Path, samples: int, max_new_tokens: int, seed: int, trusted: bool
) -> None:
    policy = load_policy(mixture, trust_remote_code=trusted)
    drawn = policy.sample(prompts, n=samples, max_new_tokens=max_new_tokens, seed=seed_of(seed, DISTILLED + " from"))
    # A row for each draw: a row of the table shows different responses, and draws repeat each other.
    rows = [
        {"prompt": prompt, "responses": [sample.response], "ranks": [1], "source": sample.adapter}
        for prompt, group in zip(prompts, drawn, strict=True)
        for sample in group
        if sample.finished and _says_something(sample.response)
    ]
    if not rows:
        raise PluralignError(
            f"{mixture}: none of {len(prompts) * samples} draws says something and ends within {max_new_tokens} "
            "tokens, so there is nothing to learn from: raise --max-new-tokens"
        )
    Judgments.from_rows(rows).write(file)


def _says_something(response: Any) -> bool:
    text = response if isinstance(response, str) else response[0]["content"]
    return bool(text.strip())


def _lora(mixture: Path) -> dict[str, Any]:
    """The settings of a new adapter that is like those of the mixture."""
    first = _first(mixture)
    config = peft.PeftConfig.from_pretrained(str(first))
    if not isinstance(config, peft.LoraConfig):
        raise PluralignError(
            f"{first}: an adapter of the kind {config.peft_type}; only mixtures of LoRA adapters can be distilled"
        )
    modules = config.target_modules
    found = {
        "model_name_or_path": str(config.base_model_name_or_path),
        "use_peft": True,
        "lora_r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "lora_target_modules": [modules] if isinstance(modules, str) else sorted(modules or []),
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }
    if config.modules_to_save:
        found["lora_modules_to_save"] = list(config.modules_to_save)
    if (first / "config.json").exists():
        limits = json.loads((first / "config.json").read_text(encoding="utf-8")).get(SETTINGS) or {}
        found |= {"max_length": limits["max_length"]} if "max_length" in limits else {}
    template = first / "chat_template.jinja"
    if template.exists():
        found["chat_template_path"] = str(template)  # the adapters' may differ from the base's
    return found


def _first(mixture: Path) -> Path:
    """The folder of one of the mixture's adapters."""
    return mixture / next(iter(read_mixture(mixture).weights))
