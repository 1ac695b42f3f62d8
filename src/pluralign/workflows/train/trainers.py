"""The trainer that a checked config asks for, with its model, its data and what else it needs."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import peft
import transformers
import trl
from accelerate import PartialState
from transformers.utils import logging
from trl import ModelConfig, get_peft_config, get_quantization_config

from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments
from pluralign.scoring.causal_models import load_causal_model
from pluralign.scoring.loading import load_parts, read_chat_template
from pluralign.scoring.reward_models import build_reward_model
from pluralign.scoring.tokens import model_context, prompt_tokens
from pluralign.training.configs import BradleyTerryConfig, DPOConfig, PlackettLuceConfig, PMDPOConfig, SFTConfig
from pluralign.training.dpo import DPOTrainer
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.dprm.trainer import DPRMTrainer, training_scale
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.trainer import MORETrainer
from pluralign.training.preference_matching.dpo import PMDPOTrainer
from pluralign.training.preference_matching.rlhf import PMRLHFTrainer
from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig
from pluralign.training.response_trainer import ResponseTrainer, load_options
from pluralign.training.reward_trainer import BradleyTerryTrainer, PlackettLuceTrainer
from pluralign.training.sft import SFTTrainer, completions

logger = logging.get_logger(__name__)

OBJECTIVES: dict[str, tuple[type[transformers.TrainingArguments], type[Any]]] = {
    "bradley-terry": (BradleyTerryConfig, BradleyTerryTrainer),
    "plackett-luce": (PlackettLuceConfig, PlackettLuceTrainer),
    "more": (MOREConfig, MORETrainer),
    "dprm": (DPRMConfig, DPRMTrainer),
    "dpo": (DPOConfig, DPOTrainer),
    "em-dpo": (EMDPOConfig, EMDPOTrainer),
    "pm-dpo": (PMDPOConfig, PMDPOTrainer),
    "pm-rlhf": (PMRLHFConfig, PMRLHFTrainer),
    "sft": (SFTConfig, SFTTrainer),
}
"""Objective to its config and trainer."""


@dataclass(frozen=True)
class TrainingRun:
    """A checked config, ready to run."""

    objective: str
    train_files: list[str]
    eval_files: list[str]
    label_scale: str | None
    folder: Path
    model: ModelConfig
    args: transformers.TrainingArguments
    resolved: dict[str, Any]


def make_trainer(job: TrainingRun, judgments: Judgments, evaluated: Judgments | None) -> transformers.Trainer:
    """Load what a config names and make its trainer.

    Raises:
        PluralignError: a model cannot be loaded or does not fit, or the data holds nothing to train on.
    """
    if job.objective == "sft":
        return _sft(job, judgments, evaluated)
    if job.objective == "pm-rlhf":
        return _pm_rlhf(job, judgments, evaluated)
    return _on_judgments(job, judgments, evaluated)


def model_kwargs(job: TrainingRun) -> dict[str, Any]:
    """What a config says to `from_pretrained` about its model."""
    kwargs: dict[str, Any] = {"dtype": job.model.dtype}
    if job.model.attn_implementation is not None:
        kwargs["attn_implementation"] = job.model.attn_implementation
    quantization = get_quantization_config(job.model)
    if quantization is not None:
        kwargs |= {"quantization_config": quantization, "device_map": {"": PartialState().process_index}}
    return kwargs


def _on_judgments(job: TrainingRun, judgments: Judgments, evaluated: Judgments | None) -> ResponseTrainer:
    args: Any = job.args
    load: Any = load_causal_model if job.objective in ("dpo", "em-dpo", "pm-dpo") else build_reward_model
    if isinstance(args, DPRMConfig):
        load = functools.partial(build_reward_model, label_scale=training_scale(judgments, args))
    loaded: Any = load(
        job.model.model_name_or_path,
        revision=job.model.model_revision,
        **model_kwargs(job),
        **load_options(args),
    )
    trainer: ResponseTrainer = OBJECTIVES[job.objective][1](
        model=loaded.model,
        args=args,
        train_dataset=judgments,
        eval_dataset=evaluated,
        processing_class=loaded.tokenizer,
        peft_config=get_peft_config(job.model),
    )
    return trainer


def _sft(job: TrainingRun, judgments: Judgments, evaluated: Judgments | None) -> trl.SFTTrainer:
    args: Any = job.args
    hub = {"revision": job.model.model_revision, "trust_remote_code": args.trust_remote_code}
    _, tokenizer = load_parts(job.model.model_name_or_path, hub)
    if args.chat_template_path is not None:
        tokenizer.chat_template = read_chat_template(args.chat_template_path, hub)
        args.chat_template_path = None  # TRL would take it a second time, and add tokens
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job.model.model_name_or_path, **hub, **model_kwargs(job), **(args.model_init_kwargs or {})
    )
    args.model_init_kwargs = None
    return SFTTrainer(
        model=model,
        args=args,
        train_dataset=completions(judgments, args.responses),
        eval_dataset=None if evaluated is None else completions(evaluated, args.responses),
        processing_class=tokenizer,
        peft_config=get_peft_config(job.model),
    )


def _pm_rlhf(job: TrainingRun, judgments: Judgments, evaluated: Judgments | None) -> PMRLHFTrainer:
    args: Any = job.args
    loaded: Any = load_causal_model(
        job.model.model_name_or_path,
        revision=job.model.model_revision,
        trust_remote_code=args.trust_remote_code,
        **model_kwargs(job),
        **(args.model_init_kwargs or {}),
    )
    args.model_init_kwargs = None
    if isinstance(loaded.model, peft.PeftModel):
        loaded.model.set_adapter(loaded.model.active_adapter)  # loaded to be used, it would stay as it is
    room = model_context(loaded.model.config, loaded.tokenizer) - args.max_completion_length
    prompts = prompts_that_fit(judgments, loaded.tokenizer, room)
    at_once = args.generation_batch_size // args.num_generations
    if len(prompts) < at_once:
        raise PluralignError(
            f"train_files: found {len(prompts)} prompts, and {at_once} are answered at once: lower "
            "per_device_train_batch_size or gradient_accumulation_steps, or raise num_generations"
        )
    return PMRLHFTrainer(
        model=loaded.model,
        args=args,
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        eval_dataset=None
        if evaluated is None
        else datasets.Dataset.from_list(
            [{"prompt": prompt} for prompt in prompts_that_fit(evaluated, loaded.tokenizer, room)]
        ),
        processing_class=loaded.tokenizer,
        peft_config=get_peft_config(job.model),
    )


def prompts_that_fit(judgments: Judgments, tokenizer: Any, room: int) -> list[Any]:
    """The prompts of a table, each once, in their order, that leave room for an answer; it is said how many do not.

    TRL reads prompts whole, so that one with more tokens would run over the model's context, and one without any
    gives the model nothing to begin from.

    Args:
        judgments: the table.
        tokenizer: the policy's.
        room: tokens of a prompt.

    Raises:
        PluralignError: none is left.
    """
    prompts = list({json.dumps(prompt): prompt for prompt in judgments.column("prompt")}.values())
    lengths = [len(ids) for ids in prompt_tokens(prompts, tokenizer, room + 1)]
    kept = [prompt for prompt, length in zip(prompts, lengths, strict=True) if 0 < length <= room]
    if not kept:
        raise PluralignError(
            f"no prompt is left of {len(prompts)}: each is empty or has more than the {room} tokens that "
            "max_completion_length leaves of the model's context: lower it"
        )
    if len(kept) < len(prompts):
        logger.warning(
            f"{len(prompts) - len(kept)} of {len(prompts)} prompts left out: empty, or more than the {room} tokens "
            "that max_completion_length leaves of the model's context"
        )
    return kept
