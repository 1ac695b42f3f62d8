"""EM-DPO: latent annotator types, estimated while a policy for each is tuned (arXiv 2405.15065, 2510.15716).

Annotator h is of type k with probability eta_k and judges by u_k(x, y) = beta (log pi_k(y|x) - log pi_ref(y|x)):

    E:  gamma_hk proportional to eta_k product over h's judgments j of P_k(j)
    M:  eta_k = mean_h gamma_hk;  pi_k by DPO in which h's judgments weigh gamma_hk

How it differs from the authors' algorithm (`preset: paper` is theirs): rankings as well as pairs; the start is a
latent-class model on frozen features; a round scores judgments that its M-step left out, because the judgments that
a policy was tuned on always favour it; an annotator's judgments train one drawn type in each round; a type is no
longer scored for an annotator whose posterior excludes it; policies are adapters on one base.
"""

from __future__ import annotations

import copy
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import peft
import safetensors.torch
import torch
import transformers
from torch import nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from pluralign.choice.em_dpo import halves, places_within, temperatures
from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.core.files import write_json, write_parquet
from pluralign.judgments.table import Judgments
from pluralign.scoring.adapters import can_merge, merged
from pluralign.scoring.items import Items
from pluralign.scoring.measured import Measured, believed, column_of, pairs_under, typed_metrics
from pluralign.scoring.mixtures import RESPONSIBILITIES, Mixture, responsibilities_table
from pluralign.scoring.panels import annotators_of
from pluralign.scoring.tokens import TokenizedItems
from pluralign.training.batches import JudgmentSampler
from pluralign.training.checkpoints import newest_checkpoint
from pluralign.training.dpo import DPOTrainer
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.e_step import EStep, TypeUtilities
from pluralign.training.em_dpo.rounds import Round, Rounds, first_round, log_round, next_round
from pluralign.training.em_dpo.type_starts import type_start
from pluralign.training.em_dpo.typed_batches import TypedCollator, TypedRows, TypedSampler, typed_rows
from pluralign.training.judgment_trainer import Dataset, as_judgments
from pluralign.training.objective import TrainingRun
from pluralign.training.response_trainer import adapted

logger = logging.get_logger(__name__)

FINAL = "final"
"""The folder of the last M-step, on all judgments."""


class EMDPOTrainer(DPOTrainer):
    """Estimates annotator types and tunes an adapter for each.

    Arguments that are not listed are those of `DPOTrainer`.

    Args:
        model: a folder or hub id, or a causal language model; it is frozen and is the reference of all types.
        args: the config.
        train_dataset: `Judgments`, or preference rows in TRL's format. Each judgment without an annotator counts as
            an annotator of its own.
        eval_dataset: the same, for evaluation; annotators are recognised by their ids.
        peft_config: the LoRA of each type; `None` is PEFT's default on all linear layers.

    Raises:
        PluralignError: the model or the data cannot be used.

    Two types:

        args = pluralign.EMDPOConfig(output_dir="runs/people", types=2, learning_rate=2e-4)
        trainer = pluralign.EMDPOTrainer("my-model", args, pluralign.read("train.parquet"))
        trainer.train()
        trainer.save_model()
    """

    args: EMDPOConfig
    file_keys: ClassVar[tuple[str, ...]] = ()
    fixed_model_keys: ClassVar[dict[str, Any]] = {"use_peft": True}
    default_model_keys: ClassVar[dict[str, Any]] = {"lora_target_modules": ["all-linear"]}
    card_usage: ClassVar[str] = """```python
import pluralign

policy = pluralign.load_policy("{folder}")  # a mixture: each response is drawn from one type's policy
policy.sample(["a prompt"], n=2)
pluralign.load_policy("{folder}/type-1").sample(["a prompt"], n=2)  # one type's policy alone
```

Each folder `type-1`, `type-2` ... is a plain PEFT adapter on the base. `responsibilities.parquet` gives each
annotator's type, `types.json` the estimates of every round."""

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel,
        args: EMDPOConfig,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: peft.LoraConfig | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if train_dataset is None:
            raise PluralignError("no training judgments were given")
        if isinstance(model, peft.PeftModel):
            raise PluralignError("model: has an adapter already; merge it first (every type gets its own)")
        if "optimizers" in trainer_arguments:
            raise PluralignError("optimizers: every M-step makes its own; choose one with `optim` in the config")
        judgments = as_judgments(train_dataset)
        start = type_start(judgments, args, args.seed)
        self.verdict = start.verdict
        self.adapters = [f"type-{kind + 1}" for kind in range(start.types)]
        logger.warning(f"types: {start.types}; {start.verdict.verdict}: {start.verdict.reason}")
        if len(self.adapters) > 1:
            if args.train_sampling_strategy == "sequential":
                raise PluralignError("train_sampling_strategy: sequential has no meaning with several types")
            if args.auto_find_batch_size:
                raise PluralignError("auto_find_batch_size: a step holds judgments of one type, so set its size")
            args.ddp_find_unused_parameters = True  # every step leaves the other types' adapters unused
        adapter = peft_config or peft.LoraConfig(target_modules="all-linear")
        super().__init__(model, args, judgments, eval_dataset, processing_class, adapter, **trainer_arguments)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise PluralignError("em-dpo: FSDP and DeepSpeed shard what types share; use plain data parallelism")
        rows = self.train_items.row
        self.annotator, self.annotators = annotators_of(judgments, rows)  # (judgments,) and (annotators,)
        gamma = np.stack([start.gamma[key] for key in self.annotators])
        self.rounds: list[Round] = [first_round(gamma, args.weight_floor)]
        self._collator = self.data_collator
        self._routed = TypedRows([], np.zeros((0, 0)))
        self._phase = 0
        first = f".{self.adapters[0]}."
        self._untrained = {
            name: weight.detach().clone() for name, weight in self.policy.model.named_parameters() if first in name
        }

    def _adapted(self, model: Any, args: Any, peft_config: peft.PeftConfig | None) -> Any:
        """The adapters of all types, each a copy of the first."""
        assert peft_config is not None
        if not isinstance(peft_config, peft.LoraConfig):
            raise PluralignError(f"peft_config: found {type(peft_config).__name__}, expected a LoraConfig")
        first, *others = self.adapters
        policy = adapted(model, args, peft_config, "CAUSAL_LM", first)
        for name in others:
            policy.add_adapter(name, copy.deepcopy(peft_config))
        return policy

    # State.

    @property
    def responsibilities(self) -> np.ndarray:
        """The current posterior of each annotator of the training judgments: `(annotators, K)`."""
        return self.rounds[-1].gamma

    @property
    def mixture_weights(self) -> np.ndarray:
        """The current eta: `(K,)`."""
        return np.exp(self.rounds[-1].log_weights)

    @property
    def mixture(self) -> Mixture:
        """The types' policies with their shares."""
        args = self.args
        weights = dict(zip(self.adapters, self.mixture_weights.tolist(), strict=True))
        return Mixture(weights, args.beta, args.loss_type, args.ties, args.top, args.penalty)

    @property
    def posteriors(self) -> dict[str, np.ndarray]:
        """Posterior `(K,)` of each annotator with an id."""
        pairs = zip(self.annotators, self.responsibilities, strict=True)
        return {name: gamma for name, gamma in pairs if isinstance(name, str)}

    # Training.

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> TrainOutput:
        """Rounds of an M-step and an E-step, then the last M-step on all judgments.

        Args:
            resume_from_checkpoint: if true, go on from the rounds in `output_dir`; otherwise remove them.
            options: passed on to `transformers.Trainer.train`.

        Returns:
            Steps and loss of the M-steps that ran.
        """
        began = time.perf_counter()
        folder, writes = Path(self.args.output_dir), self.accelerator.is_main_process
        stored = Rounds(folder / "rounds", writes)
        if not resume_from_checkpoint:
            stored.clear()
        self.accelerator.wait_for_everyone()
        self.rounds = stored.read() or self.rounds[:1]
        if self.rounds[0].gamma.shape != (len(self.annotators), len(self.adapters)):
            raise PluralignError(f"{stored.folder}: holds rounds of other types; remove it to start over")
        if writes:
            write_json(folder / "identification.json", vars(self.verdict))
        stored.write(0, self.rounds[0])
        every = np.arange(self.train_items.judgments)
        half = halves(self.annotator, self.args.seed)
        steps, losses, history = 0, 0.0, []
        try:
            for number in range(len(self.rounds), self._last + 1):
                crossfit = self.args.scoring == "crossfit"
                rows = np.flatnonzero(half == (number - 1) % 2) if crossfit else every
                scored = np.flatnonzero(half == number % 2) if crossfit else every
                if len(rows):
                    done = self._m_step(stored.of(number), number, rows, options)
                    steps, losses = steps + done.global_step, losses + done.global_step * done.training_loss
                    history += self.state.log_history
                else:  # every annotator has a single judgment, in the other half
                    scored = rows
                self.rounds.append(self._e_step(number, scored))
                stored.write(number, self.rounds[-1])
                self.accelerator.wait_for_everyone()
            done = self._m_step(stored.of(FINAL), 0, every, options)
        finally:
            self.args.output_dir = str(folder)
        steps, losses = steps + done.global_step, losses + done.global_step * done.training_loss
        self.state.log_history = history + self.state.log_history
        metrics = done.metrics | {
            "train_loss": losses / max(1, steps),
            "train_runtime": round(time.perf_counter() - began, 4),
        }
        return TrainOutput(steps, losses / max(1, steps), metrics)

    @property
    def _last(self) -> int:
        """The last round; 0 with a single type."""
        return self.args.rounds if len(self.adapters) > 1 else 0

    def _m_step(self, folder: Path, number: int, rows: np.ndarray, options: dict[str, Any]) -> TrainOutput:
        """Tune every adapter, from the reference, on its judgments; number 0 is the last M-step."""
        args = self.args
        draw = np.random.default_rng((args.seed, number))
        gamma, reliability = self.responsibilities, self.train_items.weight
        self._routed = typed_rows(gamma, self.annotator, reliability, rows, args.routing, args.skip_below, draw)
        for name, members in zip(self.adapters, self._routed.members, strict=True):
            if not len(members):
                logger.warning(f"{folder}: no judgment trains {name}, which stays equal to the reference")
        self.data_collator = TypedCollator(self._collator, self._routed.weights)
        self._phase = number
        self._restart()
        args.output_dir = str(folder)
        transformers.set_seed(args.seed + number)
        checkpoint = newest_checkpoint(folder, remove_halves=self.accelerator.is_main_process)
        self.accelerator.wait_for_everyone()
        return super().train(None if checkpoint is None else str(checkpoint), **options)

    def _restart(self) -> None:
        """Reset every adapter to its state before training, and give all of them to the next optimiser."""
        first = f".{self.adapters[0]}."
        with torch.no_grad():
            for name, weight in self.policy.model.named_parameters():
                for adapter in self.adapters:
                    if f".{adapter}." in name:
                        weight.copy_(self._untrained[name.replace(f".{adapter}.", first)])
                        weight.requires_grad_(True)
        self.optimizer = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        if len(self.adapters) == 1:
            return super()._get_train_sampler(train_dataset)
        seed = (self._order_seed, self._phase)
        samplers = [
            JudgmentSampler(self.train_items, self._group, (*seed, kind), members)
            for kind, members in enumerate(self._routed.members)
        ]
        return TypedSampler(samplers, self.train_items.judgments, self._step, seed)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of one type's judgments under its own adapter."""
        self._use(inputs.pop("type"))
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the number of the M-step; 0 is the last."""
        super().log(logs | {"m_step": float(self._phase)}, start_time)

    def _use(self, kind: int) -> None:
        # Switching freezes the other adapters; their tensors stay in the optimiser without gradients.
        if self.policy.model.active_adapter != self.adapters[kind]:
            self.policy.model.set_adapter(self.adapters[kind])

    # The E-step.

    def _e_step(self, number: int, scored: np.ndarray) -> Round:
        before, args = self.rounds[-1], self.args
        # The round before scored the other half of each annotator's judgments.
        other = before.log_likelihood if args.scoring == "crossfit" else np.zeros_like(before.gamma)
        draw = np.random.default_rng((args.seed, number, 1))
        place = places_within(self.annotator[scored], draw)
        if args.most_scored is not None:
            scored, place = scored[place < args.most_scored], place[place < args.most_scored]
        step = EStep(self.annotator, before.log_weights + other, args.drop_below)
        values = self._type_utilities(self.train_tokens)
        indifferent = self.log_likelihoods(self.train_items, self._untuned(self.train_tokens), scored)
        began = time.perf_counter()
        for rows in step.stages(scored, place):
            for kind in range(len(self.adapters)):
                mine = step.asked(rows, kind)
                if len(mine):
                    utilities = values.of(kind, self.train_items, mine)
                    each = self.log_likelihoods(self.train_items, utilities, mine)
                    step.add(mine, kind, each * self.train_items.weight[mine])
            step.settle()
        finished = next_round(
            before,
            step.log_likelihood,
            step.touched,
            both_halves=args.scoring == "crossfit",
            temperature=temperatures(args.temperature, self._last)[number - 1],
            floor=0.0 if number == self._last else args.floor,
            weight_floor=args.weight_floor,
            record={
                "round": number,
                "scored_judgments": len(scored),
                "reference_log_likelihood": float(indifferent @ self.train_items.weight[scored]),
                "scored_values": values.count,
                "e_step_seconds": round(time.perf_counter() - began, 3),
            },
        )
        log_round(finished.record)
        return finished

    def _untuned(self, tokens: TokenizedItems) -> np.ndarray:
        """u(x, y) under the reference `(responses,)`: 0 if all of log pi_ref is charged, as in DPO."""
        if self.args.penalty.mode == "kl":
            return np.zeros(len(tokens.item))
        return self.args.beta * (self._reference(tokens, Penalty("kl")) - self._reference(tokens))

    def _type_utilities(self, tokens: TokenizedItems) -> TypeUtilities:
        exact = self.accelerator.mixed_precision == "no"
        merges = exact and all(can_merge(self.policy.model, name) for name in self.adapters)

        def compute(kind: int, responses: np.ndarray) -> np.ndarray:
            self._use(kind)
            with merged(self.policy.model, self.adapters[kind]) if merges else nullcontext():
                return self._values(tokens, responses=responses)

        return TypeUtilities(len(self.adapters), self.args.beta, self._reference(tokens), compute)

    # Evaluation: every judgment under its annotator's most probable type.

    def _scored(self, items: Items, tokens: TokenizedItems) -> np.ndarray:
        """u_k(x, y) of each unique response under every type, `(K, responses)`."""
        values = self._type_utilities(tokens)
        every = np.arange(items.judgments)
        return np.stack([values.of(kind, items, every) for kind in range(len(self.adapters))])

    def _types(self, judgments: Judgments, items: Items) -> np.ndarray:
        return believed(column_of(judgments, items, "annotator"), self.posteriors, self.mixture).type

    @classmethod
    def resume_point(cls, run: TrainingRun, started: bool, remove_halves: bool) -> bool:
        """Whether to go on: the checkpoints are those of the rounds, which `train` finds by itself."""
        return started

    def training_metrics(self) -> dict[str, Any]:
        """The types, their shares, and the log-likelihood of the last round."""
        last = self.rounds[-1].record
        metrics: dict[str, Any] = {"types": len(self.adapters), "identification": self.verdict.verdict}
        metrics |= {f"share/type={kind + 1}": share for kind, share in enumerate(last["mixture_weights"])}
        keys = ("log_likelihood", "log_likelihood_per_judgment")
        return metrics | {key: last[key] for key in keys if key in last}

    def measure(self, judgments: Judgments) -> Measured:
        """The metrics of `typed_metrics` on held-out judgments."""
        items, utilities = self.score(judgments)
        metrics, types = typed_metrics(judgments, items, utilities, self.mixture, self.posteriors)
        return Measured(metrics, pairs_under(items, utilities, types, judgments=judgments))

    # Saving and loading.

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A folder with the adapter of each type, the mixture, and the annotators' responsibilities."""
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        for name in self.adapters:
            self.policy.model.config.save_pretrained(folder / name)
            self.policy.tokenizer.save_pretrained(folder / name)
        self.mixture.write(folder)
        records = [finished.record for finished in self.rounds]
        write_json(folder / "types.json", {"identification": vars(self.verdict), "rounds": records})
        counts = np.bincount(self.annotator, minlength=len(self.annotators))
        names = [key if isinstance(key, str) else None for key in self.annotators]
        write_parquet(responsibilities_table(names, counts, self.responsibilities), folder / RESPONSIBILITIES)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        for name in self.adapters:
            file = Path(resume_from_checkpoint) / name / "adapter_model.safetensors"
            peft.set_peft_model_state_dict(self.policy.model, safetensors.torch.load_file(file), adapter_name=name)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))
