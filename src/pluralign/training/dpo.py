"""Direct preference optimisation from pairs and rankings (Rafailov et al. 2023).

The implicit reward of a response is u(x, y) = beta (log pi(y|x) - log pi_ref(y|x)); the loss of a judgment is
minus its log-probability under u: Plackett-Luce for a ranking, log-sigmoid for a pair.

How it differs from TRL's `DPOTrainer`: rankings of any length, with ties, partial and weighted; each unique
response of a batch is read once, its prompt once for all of its responses; logits are made at response positions
only; the reference's log-probabilities are computed once for the data and kept on disk; prompts that are too
long are cut on the left. Mean logits, entropy and token accuracy are not logged, since they need further passes.
"""

from __future__ import annotations

import copy
import functools
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from pluralign.choice.plackett_luce import pair_sides
from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.judgments.inputs import Files
from pluralign.judgments.votes import read_votes
from pluralign.scoring.causal_models import CausalModel, causal_model, load_causal_model
from pluralign.scoring.forward import block_charges
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.reference import PENALTY, fingerprint_weights, kept_log_probs, log_probs_file
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.votes import PairVotes
from pluralign.training.configs import TOP_HELP, JudgmentConfig, setting
from pluralign.training.judgment_trainer import JudgmentTrainer
from pluralign.training.objective import trainer_config
from pluralign.training.response_trainer import ModelOrName, adapted, load_options

TUNED_POLICY_USAGE = """```python
import pluralign

policy = pluralign.load_policy("{folder}")
policy.sample(["a prompt"], n=2)
```

It also loads by `transformers` (or `peft`, if it is an adapter) alone."""


@dataclass
class DPOConfig(JudgmentConfig):
    """Direct preference optimisation from pairs and rankings."""

    learning_rate: float = setting(1e-6, "The initial learning rate of AdamW.")
    beta: float = setting(0.1, "Inverse temperature of the implicit reward beta * (log pi(y|x) - log pi_ref(y|x)).")
    loss_type: Literal["plackett-luce", "sigmoid"] = setting(
        "plackett-luce",
        "A ranking counts as a whole (plackett-luce) or as the mean over its pairs (sigmoid); for pairs they are the "
        "same.",
    )
    top: int | None = setting(None, TOP_HELP)
    label_smoothing: float | Literal["votes"] = setting(
        0.0,
        "The probability that a judgment should be reversed, below 0.5, or `votes` for the share of training votes "
        "against it. Needs loss_type: sigmoid.",
    )
    vote_state: str | None = setting(
        None, "A stored vote state of pairs whose posterior shares replace label_smoothing. Needs loss_type: sigmoid."
    )
    reference_adapter: Literal["start", "off"] = setting(
        "start",
        "For a model that is an adapter, which is trained on: the reference is the adapter as it was at the start, or "
        "its base alone (off).",
    )
    precompute_ref_log_probs: bool = setting(
        True,
        "Compute the reference's log-probabilities once before training and keep them on disk; otherwise in every "
        "step, with the adapter off or a frozen copy of the model.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        smoothing = self.label_smoothing
        if smoothing != "votes" and not 0 <= smoothing < 0.5:
            raise ValueError(f"label_smoothing: found {smoothing}, expected a number from 0 to under 0.5, or votes")
        if smoothing and self.loss_type != "sigmoid":
            raise ValueError("label_smoothing: smooths judgments of pairs, so it needs loss_type: sigmoid")
        if self.vote_state is not None and self.loss_type != "sigmoid":
            raise ValueError("vote_state: smooths judgments of pairs, so it needs loss_type: sigmoid")
        if self.vote_state is not None and smoothing:
            raise ValueError("vote_state: replaces label_smoothing: give one of them")
        if self.top is not None and self.loss_type == "sigmoid":
            raise ValueError("top: counts places of a ranking, so it needs loss_type: plackett-luce")
        if self.beta <= 0:
            raise ValueError(f"beta: found {self.beta}, expected a positive number")

    @property
    def penalty(self) -> Penalty:
        """The part of the reference's log-probability that the implicit reward subtracts: in DPO all of it."""
        return Penalty("kl")


class DPOTrainer(JudgmentTrainer):
    """Tunes a policy on judgments by direct preference optimisation.

    Args:
        model: a folder or hub id, a causal language model, or a PEFT model.
        ref_model: the reference, if it is not the given model.
        args: the config; `None` is its defaults.
        data_collator: must be `None`; it is here for the order of arguments in TRL.
        train_dataset: what `read` takes, such as `Judgments`, a `datasets.Dataset` or a frame; also in TRL's format.
        eval_dataset: the same, for evaluation.
        processing_class: the tokenizer; needed when `model` is not a name.
        peft_config: train an adapter instead of the whole model; the reference is the model without it. A model that is
            an adapter is trained on instead.
        trainer_arguments: passed on to `transformers.Trainer` (callbacks, optimizers ...).

    Raises:
        PluralignError: the model is not a causal language model, no judgment ranks anything, or a reference is
            given to a mode without one.

    Train on judgments:

        args = pluralign.DPOConfig(output_dir="runs/policy", per_device_train_batch_size=8)
        pluralign.DPOTrainer("my-model", args=args, train_dataset=pluralign.read("train.parquet")).train()
    """

    args: DPOConfig
    config_class: ClassVar[type[DPOConfig]] = DPOConfig
    file_keys: ClassVar[tuple[str, ...]] = ("vote_state",)
    card_usage: ClassVar[str] = TUNED_POLICY_USAGE
    objective: ClassVar[str] = "dpo"
    """The objective's name in the policy's settings."""

    def __init__(
        self,
        model: ModelOrName,
        ref_model: PreTrainedModel | peft.PeftModel | None = None,
        args: DPOConfig | None = None,
        data_collator: None = None,
        train_dataset: Files | None = None,
        eval_dataset: Files | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        peft_config: peft.PeftConfig | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if isinstance(ref_model, TrainingArguments):
            raise PluralignError(f"ref_model: found {type(ref_model).__name__}: give it as args=..., as in TRL")
        if not isinstance(ref_model, nn.Module | None):
            found = type(ref_model).__name__
            raise PluralignError(f"ref_model: found {found}: judgments are given as train_dataset=...")
        args = trainer_config(args, self.config_class, model, data_collator)
        self._untouched = True
        loaded = _policy(model, args, processing_class)
        continued = isinstance(loaded.model, peft.PeftModel)
        if args.reference_adapter == "off" and not (continued and ref_model is None):
            raise PluralignError("reference_adapter: off is for a model that is an adapter, without ref_model")
        if ref_model is not None and args.penalty.charges_none:
            raise PluralignError("ref_model: mode: pm uses no reference; leave it out")
        settings = {"objective": self.objective, "beta": args.beta, PENALTY: asdict(args.penalty)}
        getattr(loaded.model.config, SETTINGS).update(settings)
        self._ref_model = None if ref_model is None else causal_model(ref_model, loaded.tokenizer).model
        self._adapter_off = ref_model is None and (peft_config is not None or args.reference_adapter == "off")
        live = not args.precompute_ref_log_probs and not args.penalty.charges_none
        if live and self._ref_model is None and not self._adapter_off:
            self._ref_model = copy.deepcopy(loaded.model)
        self._ref_name = fingerprint_weights(loaded.model if self._ref_model is None else self._ref_model)
        if continued and self._adapter_off:
            self._ref_name += "-off"  # the same weights, without the adapter
        self._charges: dict[tuple[str, Penalty], np.ndarray] = {}
        self.policy = CausalModel(self._adapted(loaded.model, args, peft_config), loaded.tokenizer, loaded.limits)
        super().__init__(self.policy, args, train_dataset, eval_dataset, **trainer_arguments)
        if self._ref_model is not None:
            self._ref_model.eval().requires_grad_(False).to(self.args.device)
        if args.precompute_ref_log_probs:
            charges = torch.from_numpy(self._reference(self.train_tokens)).float()
            self._train_reference = charges.to(self.args.device)
            if self.eval_dataset is not None:
                self._reference(self._evaluated(self.eval_dataset).tokens)
        self._untouched = False

    def _adapted(self, model: Any, args: Any, peft_config: peft.PeftConfig | None) -> Any:
        return adapted(model, args, peft_config, "CAUSAL_LM")

    @property
    def counts_pairs(self) -> bool:
        """Whether `loss_type` counts pairs."""
        return self.args.loss_type == "sigmoid"

    @property
    def top(self) -> int | None:
        """The `top` of the config."""
        return self.args.top

    def _opposite(self) -> Any:
        smoothing = self.args.label_smoothing
        if self.args.vote_state is not None:
            return PairVotes.of_state(self.train_items, read_votes(self.args.vote_state)).opposite
        if smoothing == "votes":
            return PairVotes.of(self.train_items).opposite
        return (lambda responses, ranks: np.full((len(ranks), 1), smoothing)) if smoothing else None

    def _utilities(self, values: Tensor, inputs: dict[str, Any]) -> Tensor:
        penalty = self.args.penalty
        if penalty.charges_none:
            return self.args.beta * values
        if self.args.precompute_ref_log_probs:
            reference = self._train_reference[inputs["response"]]
        else:
            model, context = self._frozen()
            training = model.training
            with torch.no_grad(), context:
                model.eval()
                ends = self.policy.ends
                charges = [block_charges(model, block, self.layout, penalty, ends) for block in inputs["blocks"]]
                reference = torch.cat(charges)
                model.train(training)
        return self.args.beta * (values - reference)

    def _eval_utilities(self, values: np.ndarray, tokens: TokenizedItems) -> np.ndarray:
        return self.args.beta * (values - self._reference(tokens))

    def _frozen(self) -> tuple[Any, AbstractContextManager[Any]]:
        """The reference model, and the context in which it is the reference."""
        if self._ref_model is not None:
            return self._ref_model, nullcontext()
        if self._adapter_off:
            return self.policy.model, self.policy.model.disable_adapter()
        if self._untouched:
            return self.policy.model, nullcontext()
        raise PluralignError(
            "these judgments came after training had begun, when the reference was gone: give them as "
            "eval_dataset, or give ref_model, or set precompute_ref_log_probs: false"
        )

    def _reference(self, tokens: TokenizedItems, penalty: Penalty | None = None) -> np.ndarray:
        """The part of log pi_ref(y|x) that a penalty (by default the config's) charges, for all responses of texts.

        It comes from memory or from disk, or is computed and kept; nothing is read where nothing is charged.
        """
        charged = penalty or self.args.penalty
        if charged.charges_none:
            return np.zeros(len(tokens.item))
        name = tokens.fingerprint(), charged
        if name not in self._charges:
            precision = f"{next(self.policy.model.parameters()).dtype} {self.accelerator.mixed_precision}"
            file = log_probs_file(self._ref_name, tokens, precision, charged, self.policy.ends)
            self._charges[name] = kept_log_probs(
                file, lambda: self._charged_by(tokens, charged), self._everywhere, self.accelerator.is_main_process
            )
        return self._charges[name]

    def _charged_by(self, tokens: TokenizedItems, penalty: Penalty) -> np.ndarray:
        model, context = self._frozen()
        with context:
            read = functools.partial(block_charges, penalty=penalty, ends=self.policy.ends)
            return self._values(tokens, model, read=read)

    def _note(self, utilities: Tensor, values: Tensor, inputs: dict[str, Any]) -> None:
        super()._note(utilities, values, inputs)
        sides = []
        for numbers in (utilities, values):
            better, worse, strict = pair_sides(numbers, inputs["ranks"])
            mean = strict / strict.sum(-1, keepdim=True).clamp(min=1)
            sides += [inputs["weight"] @ (better * mean).sum(-1), inputs["weight"] @ (worse * mean).sum(-1)]
        self._add("sides", torch.stack(sides))

    def _logged(self, sums: dict[str, Tensor]) -> dict[str, float]:
        weight, agree, margin = sums["pairs"].tolist()
        names = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
        logs = {"rewards/accuracies": agree, "rewards/margins": margin} | dict(
            zip(names, sums["sides"].tolist(), strict=True)
        )
        return {name: value / weight for name, value in logs.items()} if weight > 0 else {}


def _policy(
    model: ModelOrName,
    args: DPOConfig,
    tokenizer: PreTrainedTokenizerBase | None,
) -> CausalModel:
    """The policy, loaded by name or wrapped, with its tokenizer and limits."""
    if isinstance(model, str | os.PathLike):
        return load_causal_model(model, **load_options(args))
    if tokenizer is None:
        raise PluralignError("processing_class: a model in memory needs its tokenizer")
    return causal_model(model, tokenizer, args.max_length, args.max_response_length)
