"""The base of all training on judged texts: batches, steps, logs and checkpoints.

Each unique response of a batch is read once, in prompt trees where the model can read them. The loss of an optimiser
step is the weighted mean over all of its judgments, however they fall into micro-batches, rows and processes.
Checkpoints count only when they are whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import peft
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer
from transformers.utils import logging
from trl import get_peft_config

from pluralign.core.errors import PluralignError
from pluralign.judgments.annotator_weights import read_annotator_weights, with_annotator_weights
from pluralign.judgments.table import Judgments
from pluralign.scoring.forward import Reader, block_values, score_tokens
from pluralign.scoring.items import Items
from pluralign.scoring.library_output import quiet_libraries
from pluralign.scoring.text_models import TextModel
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import Layout
from pluralign.training.batches import JudgmentIndices, JudgmentSampler, PaddedCollator, PaddedSampler
from pluralign.training.configs import SECOND_ADAPTER, JudgmentConfig
from pluralign.training.objective import Objective, TrainingRun
from pluralign.training.sharding import load_whole_weights

logger = logging.get_logger(__name__)

ModelOrName = str | os.PathLike[str] | PreTrainedModel | peft.PeftModel


class ResponseTrainer(Objective, Trainer):
    """Subclasses prepare the model and the items, set `data_collator`, and define the loss of a judgment.

    Args:
        text_model: the model with its adapter, tokenizer and limits.
        args: the config.
        items: the training judgments with their texts.
        eval_dataset: for evaluation.
        trainer_arguments: passed on to `transformers.Trainer` (callbacks, optimizers ...).
    """

    hidden_keys: ClassVar[tuple[str, ...]] = ("lora_task_type",)
    args: Any
    data_collator: Any

    def __init__(
        self, text_model: TextModel, args: JudgmentConfig, items: Items, eval_dataset: Any, **trainer_arguments: Any
    ) -> None:
        if "tokenizer" in trainer_arguments:
            raise PluralignError("tokenizer: is called processing_class, as in TRL")
        if args.n_gpu > 1:
            raise PluralignError("several GPUs in one process are not supported: start with `accelerate launch`")
        if not items.weight.astype(np.float32).any():
            raise PluralignError("every training judgment has the weight 0, so there is nothing to train on")
        self.text_model = text_model
        self.train_items = items
        self.train_tokens = self._tokens(items, "training")
        super().__init__(
            model=text_model.model,
            args=args,
            train_dataset=JudgmentIndices(items.judgments),
            eval_dataset=eval_dataset,
            processing_class=text_model.tokenizer,
            **trainer_arguments,
        )
        if self.sharded:
            load_whole_weights()  # setting up DeepSpeed has ended it
            text_model.model.to(args.device)  # what is read before the weights are sharded is read there
        with self.accelerator.autocast():
            self.layout = self._laid_out(text_model.layout(self.train_tokens, args.layout, args.max_tokens_per_row))
        self.loss_is_scaled_for_ga = True
        self.label_names: list[str] = []
        self._sums: dict[str, Tensor] = {}

    @classmethod
    def input_files(cls, args: Any) -> list[str]:
        """Also the file of the annotators' weights."""
        return [*super().input_files(args), *([] if args.annotator_weights is None else [args.annotator_weights])]

    @classmethod
    def from_run(cls, run: TrainingRun, judgments: Judgments, evaluated: Judgments | None) -> Self:
        """The trainer of a run: its model, trained on its judgments."""
        args: Any = run.args
        build: Any = cls
        options = {"revision": run.model.model_revision, **run.model_kwargs, **(args.model_init_kwargs or {})}
        given, args.model_init_kwargs = args.model_init_kwargs, options
        try:
            trainer: Self = build(
                run.model.model_name_or_path, args=args, train_dataset=judgments, eval_dataset=evaluated,
                peft_config=get_peft_config(run.model),
            )  # fmt: skip
        finally:
            args.model_init_kwargs = given
        return trainer

    # What a subclass defines.

    def _losses(self, utilities: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Loss of each judgment of a training batch `(judgments,)`, from the utilities of the responses it shows."""
        raise NotImplementedError

    def _utilities(self, values: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Utilities of the responses of a training batch from the model's values, `(responses, ...)` both."""
        return values

    def _factor(self, losses: Tensor, utilities: Tensor, inputs: dict[str, Any], total: Tensor) -> Tensor | float:
        """Factor of each judgment's loss, `(judgments,)`; `total` is the weight of the whole step."""
        return inputs.get("factor", 1.0)

    def _learn(self, losses: Tensor, inputs: dict[str, Any]) -> None:
        """Move what is learned beside the model, by the weighted losses of a micro-batch `(judgments,)`."""

    def _note(self, utilities: Tensor, values: Tensor, inputs: dict[str, Any]) -> None:
        """Add a batch to the sums for the logs."""
        raise NotImplementedError

    def _logs(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Logs from sums over all processes."""
        raise NotImplementedError

    def _tokens(self, items: Items, name: str) -> TokenizedItems:
        """Token ids of items."""
        return self.text_model.tokenize(items, name)

    def _laid_out(self, layout: Layout) -> Layout:
        """One block per batch where weights are sharded, because processes must then call the model in step."""
        if self.sharded:
            return replace(layout, block_tokens=math.inf)
        return layout

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        args, order = self.args, self._order()
        if args.world_size == 1 or args.dataloader_drop_last:
            return order
        return PaddedSampler(order, args.train_batch_size * args.world_size)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of judgments; every process has the same number of them."""
        own, self.data_collator = self.data_collator, PaddedCollator(self.data_collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = own

    def _order(self) -> Sampler[int]:
        """The order of the training judgments."""
        if self.args.train_sampling_strategy == "sequential":
            return SequentialSampler(JudgmentIndices(self.train_items.judgments))
        return JudgmentSampler(self.train_items, self._group, self._order_seed)

    @property
    def _step(self) -> int:
        """The judgments of an optimiser step, over all processes."""
        args = self.args
        return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)

    @property
    def _group(self) -> int:
        """By default a quarter of an optimiser step, so that the order does not depend on how a step is divided."""
        return self.args.judgments_per_group or max(1, self._step // 4)

    @property
    def _order_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    # The step's loss: the sum of weight * loss over its judgments, divided by the sum of their weights.

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        total = sum((batch["weight"].sum().to(device) for batch in batch_samples), torch.zeros((), device=device))
        return self.accelerator.reduce(total, reduction="sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Weighted sum of the judgments' losses, divided by the weight of the whole step."""
        values = self._read(model, inputs)
        utilities = self._utilities(values, inputs)[inputs["index"]]  # (judgments, responses)
        weight = inputs["weight"]
        total = weight.sum() if num_items_in_batch is None else num_items_in_batch
        losses = self._losses(utilities, inputs)
        weighted = weight * losses * self._factor(losses, utilities, inputs, total)
        self._learn(weighted, inputs)
        # Processes average their gradients, so each scales its share by the number of processes.
        loss = weighted.sum() / total.clamp(min=torch.finfo(weight.dtype).tiny)
        loss = loss * self.accelerator.num_processes
        with torch.no_grad():
            self._note(utilities, values[inputs["index"]], inputs)
        return (loss, utilities) if return_outputs else loss

    def _read(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Values of the responses of a training batch: `(responses,)`."""
        return torch.cat([block_values(model, block, self.layout) for block in inputs["blocks"]])

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Six operations per weight and token."""
        tokens = sum(block["input_ids"].numel() for block in inputs["blocks"])
        return 6 * tokens * sum(weight.numel() for weight in self.text_model.model.parameters())

    # Logs: sums over judgments since the last log, over all processes.

    def _add(self, name: str, sums: Tensor) -> None:
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics of the training judgments since the last log."""
        if self._sums and "loss" in logs:
            sums = {name: self.accelerator.reduce(self._sums[name], "sum").cpu() for name in sorted(self._sums)}
            self._sums = {}
            logs |= self._logs(sums)
        super().log(logs, start_time)

    def _announced(self, metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
        """Log the metrics of an evaluation, call the callbacks, and return the metrics under their prefix."""
        named = {f"{prefix}_{key}": float(value) for key, value in metrics.items()}
        self.log(named)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    # Reading and saving.

    def _values(
        self,
        tokens: TokenizedItems,
        model: Any = None,
        responses: np.ndarray | None = None,
        read: Reader = block_values,
    ) -> np.ndarray:
        """Values `(responses, ...)`, 0 for those not asked for; each process reads its share of the items.

        With sharded weights every process calls the model equally often.
        """
        processes, mine = self.accelerator.num_processes, self.accelerator.process_index
        asked = np.arange(len(tokens.item)) if responses is None else responses
        share = asked[tokens.item[asked] % processes == mine]
        with self.accelerator.autocast():
            values = score_tokens(
                self.model if model is None else model, tokens, self.layout, share, read=read,
                most=self._most if self.sharded else None,
            )  # fmt: skip
        total = self.accelerator.reduce(torch.from_numpy(values).to(self.accelerator.device), "sum")
        return total.cpu().numpy()

    def _most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())


def weighted_mean(values: np.ndarray, weight: np.ndarray) -> float:
    """sum w v / sum w; 0 if all weights are 0."""
    return float(values @ weight) / max(float(weight.sum()), np.finfo(float).tiny)


def weighted_judgments(judgments: Judgments, args: JudgmentConfig) -> Judgments:
    """Training judgments with the weights of their annotators, if the config names a file with them."""
    if args.annotator_weights is None:
        return judgments
    weights = read_annotator_weights(args.annotator_weights)
    names = set(judgments.column("annotator")) - {None}
    logger.info(f"annotator_weights: {len(names & weights.keys())} of {len(names)} annotators have a weight")
    return with_annotator_weights(judgments, weights)


def load_options(args: JudgmentConfig) -> dict[str, Any]:
    """The config's arguments of loading a model."""
    return {
        "max_length": args.max_length,
        "max_response_length": args.max_response_length,
        "chat_template_path": args.chat_template_path,
        "trust_remote_code": args.trust_remote_code,
        **(args.model_init_kwargs or {}),
    }


def adapted(
    model: Any, args: JudgmentConfig, peft_config: peft.PeftConfig | None, task: str, name: str = "default"
) -> Any:
    """The model with dropout off and an adapter on, as the config says."""
    if args.disable_dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    if isinstance(model, peft.PeftModel):
        if peft_config is not None:
            raise PluralignError(SECOND_ADAPTER)
        model.set_adapter(model.active_adapter)  # an adapter is loaded frozen
        return model
    if peft_config is None:
        return model
    peft_config.task_type = task
    with quiet_libraries():
        return peft.get_peft_model(model, peft_config, adapter_name=name)
