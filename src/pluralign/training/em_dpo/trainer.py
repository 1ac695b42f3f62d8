"""EM-DPO: latent annotator types, estimated while a policy for each is tuned (arXiv 2405.15065, 2510.15716).

Annotator h is of type k with probability eta_k and judges by u_k(x, y) = beta (log pi_k(y|x) - log pi_ref(y|x)):

    E:  gamma_hk proportional to eta_k product over h's judgments j of P_k(j)
    M:  eta_k = mean_h gamma_hk;  pi_k by DPO in which h's judgments weigh gamma_hk

How it differs from the authors' algorithm (`preset: paper` is theirs): rankings as well as pairs; the start is a
latent-class model on frozen features, and where that predicts held-out annotators, no round follows it; a round scores
judgments with policies that were not tuned on them, because a policy always favours those that it was tuned on; it is
kept only if held-out judgments are the better for it; an annotator's judgments train one drawn type in each M-step; a
type is no longer scored for an annotator whose posterior excludes it; policies are adapters on one base.
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import peft
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from pluralign.choice.em_dpo import evidence_weight, halves, places_within
from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.core.files import write_json, write_parquet
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import read
from pluralign.judgments.table import Judgments
from pluralign.scoring.adapters import can_merge, merged
from pluralign.scoring.items import Items
from pluralign.scoring.loading import save_config
from pluralign.scoring.measured import Measured, believed, column_of, pairs_under, typed_metrics
from pluralign.scoring.mixtures import RESPONSIBILITIES, Mixture, pair_counts, responsibilities_table
from pluralign.scoring.tokens import TokenizedItems
from pluralign.training.em_dpo.adapters import copied_weights
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.e_step import EStep, TypeUtilities
from pluralign.training.em_dpo.plan import plan_of
from pluralign.training.em_dpo.rounds import (
    Kept,
    MStep,
    Round,
    Rounds,
    after_loss,
    best_round,
    compared_with_start,
    first_round,
    log_round,
    next_round,
    without_dead_types,
)
from pluralign.training.em_dpo.type_starts import type_start
from pluralign.training.em_dpo.typed_trainer import TypedTrainer
from pluralign.training.objective import TrainingRun, trainer_config

logger = logging.get_logger(__name__)

FINAL = "final"
"""The folder of the last M-step, on all judgments."""

CONTROL = "start"
"""The folder of the start's types, tuned as long as those of the rounds, with which the rounds are compared."""

ScoringSet = tuple[np.ndarray, dict[str, torch.Tensor] | None]
"""Judgments, and the adapters that score them; `None` are those that were tuned last."""


class EMDPOTrainer(TypedTrainer):
    """Estimates annotator types and tunes an adapter for each.

    Arguments that are not listed are those of `DPOTrainer`.

    Args:
        model: a folder or hub id, or a causal language model; it is frozen and is the reference of all types.
        args: the config.
        train_dataset: what `read` takes, also preference rows in TRL's format. Each judgment without an annotator
            counts as an annotator of its own.
        eval_dataset: the same, for evaluation; annotators are recognised by their ids.
        peft_config: the LoRA of each type; `None` is PEFT's default on all linear layers.

    Raises:
        PluralignError: the model or the data cannot be used.

    Two types:

        args = pluralign.EMDPOConfig(output_dir="runs/people", types=2, learning_rate=2e-4)
        trainer = pluralign.EMDPOTrainer("my-model", args=args, train_dataset=pluralign.read("train.parquet"))
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
        ref_model: PreTrainedModel | None = None,
        args: EMDPOConfig | None = None,
        data_collator: None = None,
        train_dataset: Files | None = None,
        eval_dataset: Files | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        peft_config: peft.LoraConfig | None = None,
        **trainer_arguments: Any,
    ) -> None:
        args = trainer_config(args, EMDPOConfig, model, data_collator)
        if train_dataset is None:
            raise PluralignError("no training judgments were given")
        if isinstance(model, peft.PeftModel):
            raise PluralignError("model: has an adapter already; merge it first (every type gets its own)")
        if "optimizers" in trainer_arguments:
            raise PluralignError("optimizers: every M-step makes its own; choose one with `optim` in the config")
        judgments = read(train_dataset)
        start = type_start(judgments, args, args.seed)
        names = [f"type-{kind + 1}" for kind in range(start.types)]
        logger.warning(f"types: {start.types}; {start.verdict.verdict}: {start.verdict.reason}")
        if start.types > 1:
            if args.train_sampling_strategy == "sequential":
                raise PluralignError("train_sampling_strategy: sequential has no meaning with several types")
            if args.auto_find_batch_size:
                raise PluralignError("auto_find_batch_size: a step holds judgments of one type, so set its size")
            args.ddp_find_unused_parameters = True  # every step leaves the other types' adapters unused
        adapter = peft_config or peft.LoraConfig(target_modules="all-linear")
        super().__init__(
            names, model, args, judgments, eval_dataset, adapter, processing_class=processing_class,
            ref_model=ref_model, **trainer_arguments,
        )  # fmt: skip
        if self.is_deepspeed_enabled:
            raise PluralignError(
                "em-dpo: sets the weights of adapters between its rounds, which DeepSpeed does not allow: use FSDP"
            )
        self.verdict = start.verdict
        self.plan = plan_of(args, start.types, start.supported)
        gamma = np.stack([start.gamma[key] for key in self.annotators])
        self.rounds: list[Round] = [first_round(gamma, args.weight_floor)]
        self.state_of_types = self.rounds[0]
        self.kept = Kept(0, self.plan.why_none)
        self._m_steps: dict[str, MStep] = {}
        self._pairs = pair_counts(self.train_items) if args.loss_type == "sigmoid" else None

    # State.

    @property
    def responsibilities(self) -> np.ndarray:
        """The current posterior of each annotator of the training judgments: `(annotators, K)`."""
        return self.state_of_types.gamma

    @property
    def mixture_weights(self) -> np.ndarray:
        """The current eta: `(K,)`."""
        return np.exp(self.state_of_types.log_weights)

    @property
    def mixture(self) -> Mixture:
        """The types' policies with their shares."""
        args = self.args
        weights = dict(zip(self.adapters, self.mixture_weights.tolist(), strict=True))
        tuned = (args.beta, args.loss_type, self.ties, args.top, args.penalty)
        return Mixture(weights, *tuned, tie_nu=list(self.likelihood.nu), answers=args.answers)

    @property
    def posteriors(self) -> dict[str, np.ndarray]:
        """Posterior `(K,)` of each annotator with an id."""
        pairs = zip(self.annotators, self.responsibilities, strict=True)
        return {name: gamma for name, gamma in pairs if isinstance(name, str)}

    # Training.

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> TrainOutput:
        """Rounds of M-steps and an E-step where they are asked for or promise a gain, then an M-step on all judgments.

        Args:
            resume_from_checkpoint: if true, go on from the rounds in `output_dir`; otherwise remove them.
            options: passed on to `transformers.Trainer.train`.

        Returns:
            Steps and mean loss of all M-steps, also those before an interruption.
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
        self._m_steps = stored.read_m_steps()
        self.accelerator.wait_for_everyone()
        self._history = []
        self._steps_before = sum(int(finished.record["steps"]) for finished in self.rounds[1:])
        while not self.plan.enough(self.rounds, self._judgments):
            number = len(self.rounds)
            self.state_of_types = self.rounds[-1]
            self.rounds.append(self._round(stored, number, options))
            stored.write(number, self.rounds[-1])
            if number > 2:
                stored.remove_adapters(number - 1)
            self.accelerator.wait_for_everyone()
        self.kept = self._chosen(stored, options)
        self._drop_dead_types(self.rounds[self.kept.round])
        logger.warning(self.sentence)
        every = np.arange(self.train_items.judgments)
        done = self._tuned(stored, FINAL, 0, every, self.args.num_train_epochs, options)
        for finished in (*range(1, len(self.rounds)), CONTROL):
            stored.remove_adapters(finished)
        m_steps = [self._m_steps[number] for number in sorted(self._m_steps)]
        steps = sum(one.steps for one in m_steps)
        loss = sum(one.steps * one.loss for one in m_steps) / max(1, steps)
        self.state.log_history = self._history
        times = {"train_loss": loss, "train_runtime": round(time.perf_counter() - began, 4)}
        return TrainOutput(steps, loss, done.metrics | times)

    @property
    def _judgments(self) -> int:
        return max(1, self.train_items.judgments)

    @property
    def sentence(self) -> str:
        """Which responsibilities the policies were tuned with and why, and what to do with them."""
        if len(self.adapters) == 1:
            said = f"one type: one adapter is tuned on everybody's judgments ({self.verdict.reason})"
            if self.verdict.heterogeneity == "continuum":
                said += "; people differ by degrees: types: 2 and route --continuous serve an annotator between types"
            return said
        where = f"of round {self.kept.round}" if self.kept.round else "found before training"
        said = f"types {where}: {self.kept.reason}"
        if self.verdict.heterogeneity == "continuum":
            said += "; people differ by degrees: route --continuous gives each annotator's weights of the types"
        return said

    def _tuned(
        self, stored: Rounds, place: int | str, number: int, rows: np.ndarray, epochs: float, options: dict[str, Any],
        tensors: dict[str, torch.Tensor] | None = None, draw: int | None = None,
    ) -> TrainOutput:  # fmt: skip
        """An M-step with the current responsibilities in the folder of a round; its steps and loss are stored."""
        folder = stored.of(place)
        done, self._m_steps[str(number)] = self._m_step(
            folder, number, rows, self.responsibilities, epochs, options, tensors, draw
        )
        stored.write_m_steps(self._m_steps)
        return done

    def _round(self, stored: Rounds, number: int, options: dict[str, Any]) -> Round:
        """M-steps from the current responsibilities, and the E-step after them."""
        if self.args.scoring == "train":
            every = np.arange(self.train_items.judgments)
            done = self._tuned(stored, number, number, every, self.args.round_epochs, options)
            return self._e_step(number, [(every, None)], done.global_step)
        sets, steps = self._tuned_halves(stored, number, number - 1 or None, number, self.args.round_epochs, options)
        return self._e_step(number, sets, steps)

    def _tuned_halves(
        self,
        stored: Rounds,
        place: int | str,
        before: int | None,
        number: int,
        epochs: float,
        options: dict[str, Any],
    ) -> tuple[list[ScoringSet], int]:
        """Tune one set of adapters on each half of everybody's judgments.

        Args:
            stored: the folder of the rounds.
            place: the folder of this round.
            before: the round whose adapters are tuned on; `None` starts from the reference.
            number: the round's number, for seeds.
            epochs: of each half.
            options: of `transformers.Trainer.train`.

        Returns:
            For each half the judgments of the *other* half and the adapters that score them, and the steps taken.
        """
        half, steps = halves(self.annotator, self.args.seed), 0
        sets: list[ScoringSet] = []
        for side in (0, 1):
            rows, scored = np.flatnonzero(half == side), np.flatnonzero(half != side)
            if not len(rows):  # every annotator has a single judgment, and all of them fell into the other half
                continue
            if stored.adapters_file(place, side).exists():
                self._steps_before += stored.read_adapters(place, side)[1]
            else:
                tensors = None if before is None else stored.read_adapters(before, side)[0]
                phase = 2 * number - 1 + side
                done = self._tuned(stored, f"{place}/half-{side}", phase, rows, epochs, options, tensors, draw=number)
                tuned = copied_weights(self.policy.model, self.adapters) | self._learned_tensors()
                stored.write_adapters(place, side, tuned, done.global_step)
                self.accelerator.wait_for_everyone()
            adapters, own = stored.read_adapters(place, side)
            sets.append((scored, adapters))
            steps += own
        return sets, steps

    def _chosen(self, stored: Rounds, options: dict[str, Any]) -> Kept:
        """The round whose responsibilities train the last M-step.

        With `rounds: auto` the best round must predict held-out judgments better than the start's types do that were
        tuned for as many epochs; otherwise longer tuning alone would count as a gain.
        """
        taken = len(self.rounds) - 1
        if not taken:
            return Kept(0, self.plan.why_none)
        if not self.plan.automatic:
            return Kept(taken, f"rounds: {taken} was asked for")
        best = best_round(self.rounds)
        if best < 2:
            return Kept(0, "no later round predicted held-out judgments better than the first, which is the start's")
        control = stored.read_one(CONTROL)
        if control is None:
            self.state_of_types = self.rounds[0]
            phase = self.args.most_rounds + 1
            epochs = (best - 1) * self.args.round_epochs
            sets, steps = self._tuned_halves(stored, CONTROL, 1, phase, epochs, options)
            logger.warning(f"the start's types, tuned as long as those of round {best}, to compare:")
            control = self._e_step(1, sets, steps)
            stored.write(CONTROL, control)
        else:
            self._steps_before += int(control.record["steps"])
        return compared_with_start(self.rounds, best, control, self._judgments)

    def _drop_dead_types(self, state: Round) -> None:
        """Take a state for the last M-step, without the types that hold less than one annotator."""
        self.state_of_types, dead = without_dead_types(state)
        if not dead:
            return
        left = len(self.adapters) - len(dead)
        self.kept = replace(self.kept, dropped=tuple(kind + 1 for kind in dead))
        self._use(0)
        for name in self.adapters[left:]:
            self.policy.model.delete_adapter(name)
        self.adapters = self.adapters[:left]
        self.verdict, said = after_loss(self.verdict, dead, left)
        logger.warning(said)

    # The E-step.

    def _e_step(self, number: int, sets: list[ScoringSet], steps: int) -> Round:
        """The state after a round.

        Args:
            number: of the round, from 1.
            sets: which adapters score which judgments.
            steps: optimiser steps of the round's M-steps, over all of them.
        """
        before, args = self.state_of_types, self.args
        evidence = self._start_evidence
        step = EStep(self.annotator, before.log_weights, args.drop_below)
        draw = np.random.default_rng((args.seed, number, 1))
        indifferent = self._untuned(self.train_tokens)
        reference, judgments, values = 0.0, 0, 0
        began = time.perf_counter()
        for rows, tensors in sets:
            place = places_within(self.annotator[rows], draw)
            chosen = place < (args.most_scored or np.inf)
            scored, place = rows[chosen], place[chosen]
            reference += float(self._evidence(indifferent, scored).sum())
            judgments += len(scored)
            if tensors is not None:
                self._set_adapters(tensors)
            utilities = self._type_utilities(self.train_tokens)

            def evidence_of(kind: int, mine: np.ndarray, utilities: TypeUtilities = utilities) -> np.ndarray:
                return self._evidence(utilities.of(kind, self.train_items, mine), mine)

            step.run(scored, place, evidence_of)
            values += utilities.count
        weight = evidence_weight(step.log_likelihood, before.log_weights, evidence) if evidence.any() else 0.0
        finished = next_round(
            before,
            step.log_likelihood,
            step.touched,
            evidence=weight * evidence,
            temperature=self.plan.temperatures[number - 1],
            floor=0.0 if number == self.plan.most else args.floor,
            weight_floor=args.weight_floor,
            record={
                "round": number,
                "scored_judgments": judgments,
                "reference_log_likelihood": reference,
                "scored_values": values,
                "start_weight": weight,
                "steps": steps,
                "e_step_seconds": round(time.perf_counter() - began, 3),
            },
        )
        log_round(finished.record)
        return finished

    @property
    def _start_evidence(self) -> np.ndarray:
        """The start's log-odds of the types beyond their shares `(annotators, K)`; 0 for a start that knows nothing.

        The authors' rounds (`scoring: train`) forget the start.
        """
        start = self.rounds[0]
        if self.args.scoring == "train" or not self.plan.informed:
            return np.zeros_like(start.gamma)
        return np.asarray(np.log(np.maximum(start.gamma, max(self.args.floor, 1e-3))) - start.log_weights)

    def _evidence(self, utilities: np.ndarray, judgments: np.ndarray) -> np.ndarray:
        """Weighted log-likelihoods of judgments; tuning takes the mean over a ranking's pairs, the E-step the sum."""
        each = self.log_likelihoods(self.train_items, utilities, judgments) * self.train_items.weight[judgments]
        return each if self._pairs is None else each * self._pairs[judgments]

    def _untuned(self, tokens: TokenizedItems) -> np.ndarray:
        """u(x, y) under the reference `(responses,)`: 0 if all of log pi_ref is charged, as in DPO."""
        if self.args.penalty.mode == "kl":
            return np.zeros(len(tokens.item))
        return self.args.beta * (self._reference(tokens, Penalty("kl")) - self._reference(tokens))

    def _type_utilities(self, tokens: TokenizedItems) -> TypeUtilities:
        exact = self.accelerator.mixed_precision == "no" and not self.sharded
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
        if started:
            logger.warning(f"{run.folder}: resuming from its rounds")
        return started

    def training_metrics(self) -> dict[str, Any]:
        """The types, their shares, and the log-likelihood of the last round."""
        last = self.rounds[self.kept.round].record
        metrics = super().training_metrics()
        metrics |= {"types": len(self.adapters), "identification": self.verdict.verdict}
        metrics |= {"heterogeneity": self.verdict.heterogeneity, "sentence": self.sentence}
        metrics |= {"rounds": len(self.rounds) - 1, "kept_round": self.kept.round}
        metrics |= {f"share/type={kind + 1}": float(share) for kind, share in enumerate(self.mixture_weights)}
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
            save_config(self.policy.model.config, folder / name)
            self.policy.tokenizer.save_pretrained(folder / name)
        self.mixture.write(folder)
        records = [finished.record for finished in self.rounds]
        kept = vars(self.kept) | {"dropped": list(self.kept.dropped)}
        write_json(folder / "types.json", {"identification": vars(self.verdict), "kept": kept, "rounds": records})
        counts = np.bincount(self.annotator, minlength=len(self.annotators))
        names = [key if isinstance(key, str) else None for key in self.annotators]
        write_parquet(responsibilities_table(names, counts, self.responsibilities), folder / RESPONSIBILITIES)
