"""Config dataclasses: `transformers.TrainingArguments` and what each objective adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import trl
from transformers import TrainingArguments

from pluralign.choice.preference_matching import Gate, Mode, Penalty

Ties = Literal["efron", "breslow", "average", "marginal"]


def apply_preset(config: Any, presets: Mapping[str, Mapping[str, Any]]) -> None:
    """Set what the config's `preset` says, where a field was left at its default.

    Raises:
        ValueError: there is no such preset.
    """
    if config.preset not in (None, *presets):
        raise ValueError(f"preset: found {config.preset!r}, expected {', '.join(presets)}")
    defaults = {one.name: one.default for one in fields(config)}
    for name, value in presets.get(config.preset or "", {}).items():
        if getattr(config, name) == defaults[name]:
            setattr(config, name, value)


def check_choices(config: Any, **choices: Any) -> None:
    """Fields whose values are one of a `Literal`.

    Raises:
        ValueError: a value is none of them.
    """
    for name, kind in choices.items():
        if getattr(config, name) not in get_args(kind):
            raise ValueError(f"{name}: found {getattr(config, name)!r}, expected {', '.join(get_args(kind))}")


@dataclass
class JudgmentConfig(TrainingArguments):
    """What all training on judgments shares; field names are those of TRL where it has them.

    Args:
        max_length: Tokens of prompt and response together. Prompts that are too long are cut on the left.
            Default: the model's context, at most 1024.
        max_response_length: Tokens of a response; longer ones are cut on the right. Default: three quarters of
            `max_length`.
        ties: What equal ranks mean (docs: choice models): efron, breslow, average or marginal.
        layout: How texts are laid out (docs: prompt trees): `auto` reads prompt trees where the model can,
            `tree` insists, `flat` reads one response to a row. What is learned does not depend on it.
        max_tokens_per_row: The longest prompt tree; items with more are split.
        judgments_per_group: The most judgments on one prompt that stand together in a batch and share its texts;
            1 is a plain shuffle. Default: a quarter of the judgments of an optimiser step.
        disable_dropout: Switch the model's dropout off.
        chat_template_path: A Jinja file, or a folder or hub id whose tokenizer has the chat template.
        model_init_kwargs: For `from_pretrained`, when the trainer is given a model's name.
        trust_remote_code: Run code that comes with the model. Only for code you have read.
    """

    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps (a share if under 1)."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: judgments have no columns."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens of prompt and response together."})
    max_response_length: int | None = field(default=None, metadata={"help": "Tokens of a response."})
    ties: Ties = field(default="efron", metadata={"help": "What equal ranks mean."})
    layout: Literal["auto", "tree", "flat"] = field(default="auto", metadata={"help": "How texts are laid out."})
    max_tokens_per_row: int = field(default=4096, metadata={"help": "The longest prompt tree."})
    judgments_per_group: int | None = field(
        default=None, metadata={"help": "The most judgments on one prompt that stand together in a batch."}
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False,  # processes call the model as often as their own texts need, so no call may wait for another
        metadata={"help": "Kept off: processes call the model when they need to."},
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Switch the model's dropout off."})
    chat_template_path: str | None = field(default=None, metadata={"help": "Where the chat template comes from."})
    model_init_kwargs: dict[str, Any] | None = field(default=None, metadata={"help": "For `from_pretrained`."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy: found {self.train_sampling_strategy}, expected random or sequential; "
                "texts of like length are put together inside every batch"
            )
        for name in ("max_length", "max_response_length", "max_tokens_per_row", "judgments_per_group"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: found {value}, expected 1 or more")


@dataclass
class RewardConfig(JudgmentConfig):
    """What all reward models share.

    Args:
        center_rewards_coefficient: Adds this times the mean squared reward, which centres rewards at zero.
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate of AdamW."})
    center_rewards_coefficient: float | None = field(
        default=None, metadata={"help": "Adds this times the mean squared reward."}
    )


@dataclass
class BradleyTerryConfig(RewardConfig):
    """Bradley-Terry: every ranking is its pairs; a judgment's loss is the mean over them.

    Args:
        vote_state: A stored vote state of pairs (docs: crowd votes): a verdict counts as the crowd's posterior
            share for it, and the opposite verdict as the rest.
    """

    vote_state: str | None = field(default=None, metadata={"help": "A vote state that gives soft targets."})


@dataclass
class PlackettLuceConfig(RewardConfig):
    """Plackett-Luce: every ranking as a whole.

    Args:
        top: Only the first so many places of a ranking count (1 is best of n). Default: all.
    """

    top: int | None = field(default=None, metadata={"help": "Only the first so many places count."})


@dataclass
class DPOConfig(JudgmentConfig):
    """Direct preference optimisation from pairs and rankings.

    Args:
        beta: Inverse temperature of the implicit reward beta * (log pi(y|x) - log pi_ref(y|x)).
        loss_type: `plackett-luce` takes a ranking as a whole, `sigmoid` as the mean over its pairs; for pairs
            they are the same.
        top: Only the first so many places of a ranking count (1 is best of n). Default: all.
        label_smoothing: The chance that a verdict is the other way round: one number under 0.5, or `votes`, the
            share of the training votes that say so. With `loss_type: sigmoid`.
        vote_state: A stored vote state of pairs (docs: crowd votes), whose posterior shares take the place of
            `label_smoothing`. With `loss_type: sigmoid`.
        precompute_ref_log_probs: Compute the reference's log-probabilities once, before training, and keep them
            on disk; otherwise in every step, with the adapter off or a frozen copy of the model.
    """

    learning_rate: float = field(default=1e-6, metadata={"help": "The initial learning rate of AdamW."})
    beta: float = field(default=0.1, metadata={"help": "Inverse temperature of the implicit reward."})
    loss_type: Literal["plackett-luce", "sigmoid"] = field(
        default="plackett-luce", metadata={"help": "A ranking as a whole, or as the mean over its pairs."}
    )
    top: int | None = field(default=None, metadata={"help": "Only the first so many places count."})
    label_smoothing: float | Literal["votes"] = field(
        default=0.0, metadata={"help": "The chance that a verdict is the other way round, or `votes`."}
    )
    vote_state: str | None = field(default=None, metadata={"help": "A vote state that gives soft targets."})
    precompute_ref_log_probs: bool = field(
        default=True, metadata={"help": "Compute the reference's log-probabilities once and keep them on disk."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        smoothing = self.label_smoothing
        if smoothing != "votes" and not 0 <= smoothing < 0.5:
            raise ValueError(f"label_smoothing: found {smoothing}, expected a number from 0 to under 0.5, or votes")
        if smoothing and self.loss_type != "sigmoid":
            raise ValueError("label_smoothing: smooths verdicts on pairs, so it needs loss_type: sigmoid")
        if self.vote_state is not None and self.loss_type != "sigmoid":
            raise ValueError("vote_state: smooths verdicts on pairs, so it needs loss_type: sigmoid")
        if self.vote_state is not None and smoothing:
            raise ValueError("vote_state: takes the place of label_smoothing: give one of them")
        if self.top is not None and self.loss_type == "sigmoid":
            raise ValueError("top: counts places of a ranking, so it needs loss_type: plackett-luce")
        if self.beta <= 0:
            raise ValueError(f"beta: found {self.beta}, expected a positive number")

    @property
    def penalty(self) -> Penalty:
        """What of the reference's log-probability is charged in the implicit reward: in DPO all of it."""
        return Penalty("kl")


@dataclass
class MatchingConfig(DPOConfig):
    """DPO whose implicit reward charges a part of the reference's log-probability.

    Args:
        mode: `kl` charges all of log pi_ref(y|x), which is DPO; `pm` nothing; `conditional` that of the tokens
            that the reference finds unlikely (docs: matching by DPO).
        alpha: Of `conditional`: a token is charged unless the reference gives it more than this probability.
        gate: Of `conditional`: `token` asks each token, `sequence` a response whole by the geometric mean of its
            tokens' probabilities, `sequence-minimum` by the least of them.
    """

    mode: Mode = field(default="kl", metadata={"help": "What of the reference's log-probability is charged."})
    alpha: float = field(default=0.1, metadata={"help": "Tokens above this reference probability are not charged."})
    gate: Gate = field(default="token", metadata={"help": "Ask each token, or a response whole."})

    def __post_init__(self) -> None:
        super().__post_init__()
        Penalty(self.mode, self.alpha, self.gate)  # complains of values that do not fit

    @property
    def penalty(self) -> Penalty:
        """What of the reference's log-probability is charged in the implicit reward."""
        return Penalty(self.mode, self.alpha, self.gate)


@dataclass
class PMDPOConfig(MatchingConfig):
    """Preference matching from pairs and rankings (docs: matching by DPO); fields as in `MatchingConfig`.

    Args:
        beta: Inverse temperature: the policy's odds are those of exp(r / beta), r the judgments' log-odds. At 1,
            the default, they are the judgments' own.
    """

    beta: float = field(default=1.0, metadata={"help": "The odds are those of exp(r / beta): 1 matches."})
    mode: Mode = field(default="conditional", metadata={"help": "What of the reference's log-probability is charged."})


@dataclass
class SFTConfig(trl.SFTConfig):
    """Supervised fine-tuning by TRL on the responses of a table of judgments.

    Args:
        responses: `best` trains on the responses ranked first, `all` on every response; each text once. `draws`
            trains on every response as often as it stands, for answers that were drawn from a policy.
    """

    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute states to save memory."})
    bf16: bool | None = field(default=False, metadata={"help": "Train in bfloat16 mixed precision."})
    responses: Literal["best", "all", "draws"] = field(
        default="best", metadata={"help": "Train on the responses ranked first, on all, or on all with repeats."}
    )
