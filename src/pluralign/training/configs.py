"""The config that all training on judgments shares, and helpers of config classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import torch
from transformers import TrainingArguments

from pluralign.training.choice_parameters import TiesOption
from pluralign.training.sharding import load_whole_weights


def setting(default: Any, description: str) -> Any:
    """A config field with a default and the help that `pluralign train --fields` prints."""
    return field(default=default, metadata={"help": description})


TOP_HELP = "Use only this many first places of a ranking; 1 is best of n. Default: all."
SECOND_ADAPTER = "use_peft: the model is an adapter already: leave use_peft out to train it on, or merge it first"
ALPHA_HELP = (
    "With mode: flattened or conditional, tokens above this probability under the reference are likely; from 1 on it "
    "is kl."
)
WEIGHT_HELP = "With mode: tempered, the exponent of the reference, from 0 (pm) to 1 (kl)."
GATE_HELP = (
    "With mode: flattened or conditional, compare each token with alpha (token), or a whole response by its tokens' "
    "geometric mean (sequence) or their minimum (sequence-minimum)."
)


def apply_preset(config: Any, presets: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the values of the config's `preset` in the fields that were left at their defaults.

    Raises:
        ValueError: there is no such preset.
    """
    if config.preset not in (None, *presets):
        raise ValueError(f"preset: found {config.preset!r}, expected {', '.join(presets)}")
    defaults = {entry.name: entry.default for entry in fields(config)}
    for name, value in presets.get(config.preset or "", {}).items():
        if getattr(config, name) == defaults[name]:
            setattr(config, name, value)


def check_choices(config: Any, **choices: Any) -> None:
    """Check fields whose values are those of a `Literal`.

    Raises:
        ValueError: a value is none of them.
    """
    for name, kind in choices.items():
        if getattr(config, name) not in get_args(kind):
            raise ValueError(f"{name}: found {getattr(config, name)!r}, expected {', '.join(get_args(kind))}")


def check_least(config: Any, **least: int) -> None:
    """Check numbers that have a smallest value; `None` passes.

    Raises:
        ValueError: a value is below it.
    """
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise ValueError(f"{name}: found {value}, expected {bound} or more")


BAR_HELP = "False shows the progress bars and dictionaries of transformers in place of a line for every log."


def without_bar(config: TrainingArguments) -> None:
    """Switch the progress bar of `transformers` off, unless the user chose; lines replace it (`training.console`)."""
    if config.disable_tqdm is None:
        config.disable_tqdm = True


def unpin_without_gpu(config: TrainingArguments) -> None:
    """Switch off pinned memory where there is no accelerator to copy to."""
    config.dataloader_pin_memory = config.dataloader_pin_memory and torch.accelerator.is_available()


@dataclass
class JudgmentConfig(TrainingArguments):
    """The config of all training on judgments; field names are those of TRL where it has them."""

    logging_steps: float = setting(10, "Log every this many steps; below 1, a share of all steps.")
    remove_unused_columns: bool = setting(False, "Always false: training on judgments has no columns to remove.")
    max_length: int | None = setting(
        None,
        "The most tokens of prompt and response together; longer prompts are cut on the left. Default: the model's "
        "context, at most 1024.",
    )
    max_response_length: int | None = setting(
        None, "The most tokens of a response; longer ones are cut on the right. Default: three quarters of max_length."
    )
    ties: TiesOption = setting(
        "efron",
        "How the likelihood treats equal ranks: davidson predicts ties, with tie parameters that are learned; efron, "
        "breslow, average and marginal take them for orders that were lost. auto is davidson where 5 % or more of the "
        "compared pairs are tied, else efron.",
    )
    layout: Literal["auto", "tree", "flat"] = setting(
        "auto",
        "How texts become rows: as prompt trees where the model can read them (auto), always as trees, or flat, one "
        "response per row. The result is the same.",
    )
    max_tokens_per_row: int = setting(4096, "The most tokens of a prompt tree; larger items are split.")
    judgments_per_group: int | None = setting(
        None,
        "The most judgments on one prompt that stand together in a batch and share its texts; 1 shuffles plainly. "
        "Default: a quarter of the judgments of an optimiser step.",
    )
    # processes call the model as often as their own texts need, so no call may wait for another
    ddp_broadcast_buffers: bool | None = setting(
        False, "Always false: processes call the model a different number of times."
    )
    annotator_weights: str | None = setting(
        None,
        "A Parquet file with the columns annotator and weight, such as annotators.parquet of an audit: the weight of "
        "each training judgment is multiplied by that of its annotator (unknown annotators: 1).",
    )
    disable_dropout: bool = setting(True, "Switch the model's dropout off.")
    disable_tqdm: bool | None = setting(None, BAR_HELP)
    chat_template_path: str | None = setting(
        None, "A Jinja file with the chat template, or a folder or hub id whose tokenizer has it."
    )
    model_init_kwargs: dict[str, Any] | None = setting(
        None, "Further arguments of from_pretrained, when the model is given by name."
    )
    trust_remote_code: bool = setting(False, "Run code that comes with the model. Only for code you have read.")

    def __post_init__(self) -> None:
        without_bar(self)
        super().__post_init__()
        unpin_without_gpu(self)
        load_whole_weights()
        if not self.fp16:
            # A loss that is not finite stops training; looking for it here too would wait for the device each time.
            self.logging_nan_inf_filter = False
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy: found {self.train_sampling_strategy}, expected random or sequential; "
                "every batch already puts texts of similar length together"
            )
        check_least(self, max_length=1, max_response_length=1, max_tokens_per_row=1, judgments_per_group=1)
