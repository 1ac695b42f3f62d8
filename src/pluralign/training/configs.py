"""Config dataclasses: `transformers.TrainingArguments` and what each objective adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import trl
from transformers import TrainingArguments


@dataclass
class RewardConfig(TrainingArguments):
    """What all reward models share; field names are those of TRL's `RewardConfig` where it has them.

    Args:
        max_length: Tokens of prompt and response together. Prompts that are too long are cut on the left.
            Default: the model's context, at most 1024.
        max_response_length: Tokens of a response; longer ones are cut on the right. Default: three quarters of
            `max_length`.
        ties: What equal ranks mean (docs: choice models): efron, breslow, average or marginal.
        center_rewards_coefficient: Adds this times the mean squared reward, which centres rewards at zero.
        disable_dropout: Switch the model's dropout off.
        chat_template_path: A Jinja file, or a folder or hub id whose tokenizer has the chat template.
        model_init_kwargs: For `from_pretrained`, when the trainer is given a model's name.
        trust_remote_code: Run code that comes with the model. Only for code you have read.
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate of AdamW."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps (a share if under 1)."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: judgments have no columns."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens of prompt and response together."})
    max_response_length: int | None = field(default=None, metadata={"help": "Tokens of a response."})
    ties: Literal["efron", "breslow", "average", "marginal"] = field(
        default="efron", metadata={"help": "What equal ranks mean."}
    )
    center_rewards_coefficient: float | None = field(
        default=None, metadata={"help": "Adds this times the mean squared reward."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Switch the model's dropout off."})
    chat_template_path: str | None = field(default=None, metadata={"help": "Where the chat template comes from."})
    model_init_kwargs: dict[str, Any] | None = field(default=None, metadata={"help": "For `from_pretrained`."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_length", "max_response_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: found {value}, expected 1 or more")


@dataclass
class BradleyTerryConfig(RewardConfig):
    """Bradley-Terry: every ranking is its pairs; a judgment's loss is the mean over them."""


@dataclass
class PlackettLuceConfig(RewardConfig):
    """Plackett-Luce: every ranking as a whole.

    Args:
        top: Only the first so many places of a ranking count (1 is best of n). Default: all.
    """

    top: int | None = field(default=None, metadata={"help": "Only the first so many places count."})


@dataclass
class SFTConfig(trl.SFTConfig):
    """Supervised fine-tuning by TRL on the responses of a table of judgments.

    Args:
        responses: `best` trains on the responses ranked first, `all` on every response; each text once.
    """

    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute states to save memory."})
    bf16: bool | None = field(default=False, metadata={"help": "Train in bfloat16 mixed precision."})
    responses: Literal["best", "all"] = field(
        default="best", metadata={"help": "Train on the responses ranked first, or on all."}
    )
