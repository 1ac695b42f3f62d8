"""Distillation: one adapter in place of a combined policy, fine-tuned from the base on the policy's responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import pyarrow.parquet as pq
import yaml

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.core.runs import CONFIG, read_config
from pluralign.judgments.messages import plain_text
from pluralign.judgments.table import Judgments
from pluralign.policies.loading import load_policy
from pluralign.scoring.loading import SETTINGS, load_parts
from pluralign.scoring.mixtures import read_mixture
from pluralign.workflows.aggregate.answers import seed_of
from pluralign.workflows.train.run import train

_SETTINGS = (
    "model_revision", "dtype", "attn_implementation", "load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type",
    "use_bnb_nested_quant", "bnb_4bit_quant_storage",
)  # fmt: skip
"""Settings of the base that a run stores; `trust_remote_code` is never read from a folder."""


def distilled(name: str) -> str:
    """The name of a distilled policy and its folder.

    Examples:
        >>> distilled("mixture")
        'mixture-distilled'
    """
    return f"{name}-distilled"


def distill(
    folder: Path,
    name: str,
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
    """Train `NAME-distilled/` with the objective `sft` on responses of the policy `NAME/`; resumes where it stopped.

    Minimising -log pi(y|x) over responses y of the policy q minimises KL(q || pi). Repeated responses count as often as
    they were drawn. Responses cut at the limit are left out, because training would teach an end token in their middle,
    and so are empty ones, which a table of judgments cannot hold. The adapter thus learns the policy conditional on a
    finished, non-empty response.

    `folder` gets `NAME-draws.parquet`, `NAME-distilled.yaml` and `NAME-distilled/`; the adapter uses the settings of
    the run's adapters. Returns the metrics `distill_draws/NAME`, `distill_left_out/NAME` and
    `distill_train_loss/NAME`.

    Raises:
        PluralignError: the adapters of the types are not LoRA adapters, or no response is left.
    """
    draws, out = folder / f"{name}-draws.parquet", folder / distilled(name)
    settings = _lora(run)
    if not draws.exists():
        _draw(folder / name, prompts, draws, samples, max_new_tokens, seed_of(seed, f"{name} draws"), trust_remote_code)
    kept = pq.read_metadata(draws).num_rows
    given = read_config(run) if (run / CONFIG).exists() else {}
    config = {
        "objective": "sft",
        "train_files": [str(draws)],
        "output_dir": str(out),
        "responses": "draws",
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "seed": seed,
        "report_to": "none",
        **settings,
        **{key: given[key] for key in _SETTINGS if given.get(key) is not None},
    }
    config |= {"trust_remote_code": True} if trust_remote_code else {}
    with atomic_write(out.with_suffix(".yaml"), "w") as file:
        yaml.safe_dump(config, file, allow_unicode=True, sort_keys=False)
    trained = train(out.with_suffix(".yaml"))
    counts = {f"distill_draws/{name}": kept, f"distill_left_out/{name}": len(prompts) * samples - kept}
    return counts | ({f"distill_train_loss/{name}": trained["train_loss"]} if "train_loss" in trained else {})


def _draw(
    source: Path, prompts: Sequence[Any], file: Path, samples: int, max_new_tokens: int, seed: int, trusted: bool
) -> None:
    policy = load_policy(source, trust_remote_code=trusted)
    drawn = policy.sample(prompts, n=samples, max_new_tokens=max_new_tokens, seed=seed)
    # One row per draw: a row of the table holds different responses, and draws may repeat.
    rows = [
        {"prompt": prompt, "responses": [sample.response], "ranks": [1], "source": sample.adapter}
        for prompt, group in zip(prompts, drawn, strict=True)
        for sample in group
        if sample.finished and plain_text(sample.response).strip()
    ]
    if not rows:
        raise PluralignError(
            f"{source}: none of {len(prompts) * samples} responses is finished within {max_new_tokens} tokens and "
            "not empty, so there is nothing to learn from: raise --max-new-tokens"
        )
    Judgments.from_rows(rows).write(file)


def _lora(run: Path) -> dict[str, Any]:
    """Settings of a new adapter like those of the types."""
    first = run / next(iter(read_mixture(run).weights))
    config = peft.PeftConfig.from_pretrained(str(first))
    if not isinstance(config, peft.LoraConfig):
        raise PluralignError(f"{first}: is a {config.peft_type} adapter; only LoRA adapters can be distilled")
    modules = config.target_modules
    settings = {
        "model_name_or_path": str(config.base_model_name_or_path),
        "use_peft": True,
        "lora_r": config.r,
        "lora_target_modules": [modules] if isinstance(modules, str) else sorted(modules or []),
        **{key: getattr(config, key) for key in ("lora_alpha", "lora_dropout", "use_rslora", "use_dora")},
    }
    if config.modules_to_save:
        settings["lora_modules_to_save"] = list(config.modules_to_save)
    limits = getattr(load_parts(first, {})[0], SETTINGS, None) or {}
    settings |= {"max_length": limits["max_length"]} if "max_length" in limits else {}
    template = first / "chat_template.jinja"
    if template.exists():
        settings["chat_template_path"] = str(template)  # the template of the base may differ
    return settings


def few_draws(counts: Mapping[str, Any], taught: Sequence[str]) -> list[str]:
    """Warnings of distillations that had to leave out more than one in ten responses."""
    return [
        f"{counts[f'distill_left_out/{name}']} responses of {name} were empty or cut; the distilled policy learned "
        f"from the other {counts[f'distill_draws/{name}']} only. Raise --max-new-tokens."
        for name in taught
        if counts[f"distill_left_out/{name}"] > counts[f"distill_draws/{name}"] / 9
    ]
