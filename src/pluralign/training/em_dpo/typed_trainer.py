"""M-steps: every type's adapter is tuned on the judgments that are routed to it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import peft
import safetensors.torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.core.progress import say
from pluralign.judgments.table import Judgments
from pluralign.policies.policy import Sample
from pluralign.scoring.panels import annotators_of
from pluralign.training.batches import JudgmentSampler
from pluralign.training.checkpoints import newest_checkpoint
from pluralign.training.em_dpo.adapters import adapter_weights, copied_weights, set_weights, use_adapter
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.rounds import MStep
from pluralign.training.em_dpo.typed_batches import TypedCollator, TypedRows, TypedSampler, typed_rows
from pluralign.training.preference_matching.dpo import MatchingConfig, MatchingTrainer
from pluralign.training.response_trainer import ModelOrName, adapted

logger = logging.get_logger(__name__)

SHARED_ADAPTERS = "type_adapters.safetensors"
"""The file of a checkpoint with the adapters of all types, where processes share the weights."""


class TypedTrainer(MatchingTrainer):
    """DPO of an adapter for each type on one base, one M-step after another; a subclass says on which judgments.

    Args:
        names: of the adapters.
        model, args, judgments, evaluated, peft_config: as in `DPOTrainer`; the LoRA is that of each type.
        options: further arguments of `DPOTrainer`.
    """

    args: EMDPOConfig
    config_class: ClassVar[type[MatchingConfig]] = EMDPOConfig

    def __init__(
        self,
        names: list[str],
        model: ModelOrName,
        args: EMDPOConfig,
        judgments: Judgments,
        evaluated: Any,
        peft_config: peft.PeftConfig,
        **options: Any,
    ) -> None:
        self.adapters = names
        super().__init__(
            model, args=args, train_dataset=judgments, eval_dataset=evaluated, peft_config=peft_config, **options
        )
        self.annotator, self.annotators = annotators_of(judgments, self.train_items.row)  # (judgments,), (annotators,)
        self._collator = self.data_collator
        self._routed = TypedRows([], np.zeros((0, 0)))
        self._phase = 0
        self._steps_before = 0
        self._history: list[dict[str, Any]] = []
        self._untrained = copied_weights(self.policy.model, names[:1]) | self._learned_tensors()

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

    def _m_step(
        self,
        folder: Path,
        number: int,
        rows: np.ndarray,
        gamma: np.ndarray,
        epochs: float,
        options: dict[str, Any],
        tensors: dict[str, Tensor] | None = None,
        draw: int | None = None,
    ) -> tuple[TrainOutput, MStep]:
        """Tune every adapter on its judgments; a killed M-step goes on from its newest checkpoint.

        Args:
            folder: of the checkpoints.
            number: of the M-step, 0 for the last one.
            rows: the judgments.
            gamma: responsibilities `(annotators, K)`.
            epochs: how often they are read.
            options: of `transformers.Trainer.train`.
            tensors: where the adapters start; `None` is the reference.
            draw: seed of the types that are drawn; both halves of a round draw the same. `None` is `number`.
        """
        args = self.args
        before = args.output_dir, args.num_train_epochs
        drawn = np.random.default_rng((args.seed, number if draw is None else draw))
        reliability = self.train_items.weight
        self._routed = typed_rows(gamma, self.annotator, reliability, rows, args.routing, args.skip_below, drawn)
        if self.accelerator.is_main_process:
            say(f"{folder}: tuning on {len(rows)} judgments")
        for name, members in zip(self.adapters, self._routed.members, strict=True):
            if not len(members):
                logger.warning(f"{folder}: no judgment trains {name}, which stays as it was")
        self.data_collator = TypedCollator(self._collator, self._routed.weights)
        self._phase = number
        self._set_adapters(self._untrained if tensors is None else tensors)
        for weight in adapter_weights(self.policy.model, self.adapters).values():
            weight.requires_grad_(True)
        self.optimizer = None
        try:
            args.output_dir, args.num_train_epochs = str(folder), epochs
            transformers.set_seed(args.seed + number)
            checkpoint = newest_checkpoint(folder, remove_halves=self.accelerator.is_main_process)
            self.accelerator.wait_for_everyone()
            done = super().train(None if checkpoint is None else str(checkpoint), **options)
        finally:
            args.output_dir, args.num_train_epochs = before
        self._history += self.state.log_history
        self._steps_before += done.global_step
        return done, MStep(done.global_step, done.training_loss)

    def _learned_tensors(self) -> dict[str, Tensor]:
        """What is learned beside the adapters, which is stored and restored with them."""
        return {name: own.value.detach().clone() for name, own in self.learned.items()}

    def _drawn(self, prompts: Sequence[Any], limit: int) -> list[list[Sample]]:
        if self._phase:  # a round's policies only tell types apart
            return []
        drawn = []
        for kind in range(len(self.adapters)):
            self._use(kind)
            drawn += super()._drawn(prompts, limit)
        return drawn

    def _set_adapters(self, tensors: dict[str, Tensor]) -> None:
        for name, own in self.learned.items():
            own.load({"value": tensors[name]})
        set_weights(self.policy.model, self.adapters, tensors)

    def _use(self, kind: int) -> None:
        use_adapter(self.policy.model, self.adapters[kind])
        if self.sharded:
            # FSDP decides once which weights have gradients; those of other types get none, as nothing uses them.
            for weight in adapter_weights(self.policy.model, self.adapters).values():
                weight.requires_grad_(True)

    def _order(self) -> Sampler[int]:
        if len(self.adapters) == 1:
            return super()._order()
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
        """Add the number of the M-step, 0 for the last; steps count on through the M-steps."""
        own, self.state.global_step = self.state.global_step, self.state.global_step + self._steps_before
        super().log(logs | {"m_step": float(self._phase)}, start_time)
        self.state.global_step = own

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.sharded:
            tensors = copied_weights(self.policy.model, self.adapters)
            if self.args.should_save:
                safetensors.torch.save_file(tensors, Path(output_dir) / SHARED_ADAPTERS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.sharded:
            tensors = safetensors.torch.load_file(Path(resume_from_checkpoint) / SHARED_ADAPTERS)
            set_weights(self.policy.model, self.adapters, tensors)
            return
        for name in self.adapters:
            file = Path(resume_from_checkpoint) / name / "adapter_model.safetensors"
            peft.set_peft_model_state_dict(self.policy.model, safetensors.torch.load_file(file), adapter_name=name)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))
