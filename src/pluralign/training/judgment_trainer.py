"""Training on judgments, whatever the model gives: one value per response, and a likelihood of the verdicts.

What all objectives share: each unique response of a batch is read once, in prompt trees where the model can;
the loss of an optimiser step is the weighted mean over all of its judgments, however they fall into
micro-batches, rows and processes; evaluation reads each response once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer
from transformers.utils import logging

from pluralign.choice.plackett_luce import pair_margins
from pluralign.core.errors import PluralignError
from pluralign.evaluation.summary import evaluate_rewards
from pluralign.judgments.formats.trl import from_trl
from pluralign.judgments.table import Judgments
from pluralign.scoring.forward import block_values, score_tokens
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.recalibrated import remove_recalibration
from pluralign.scoring.text_models import TextModel
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import Layout
from pluralign.training.batches import (
    JudgmentCollator,
    JudgmentIndices,
    JudgmentSampler,
    judgment_arrays,
)
from pluralign.training.checkpoints import CompletionMarker
from pluralign.training.configs import JudgmentConfig

logger = logging.get_logger(__name__)

Dataset = Judgments | Iterable[Mapping[str, Any]]
"""Judgments, or preference rows in TRL's format."""


@dataclass(frozen=True)
class Evaluated:
    """A data set for evaluation, kept alive with its texts and the source of each judgment."""

    dataset: Any
    judgments: Judgments
    items: Items
    tokens: TokenizedItems
    sources: list[str | None]


class JudgmentTrainer(Trainer):
    """Subclasses prepare the model and say what a judgment's likelihood is.

    Args:
        text_model: the model, its adapter on it, with tokenizer and limits.
        args: the config.
        train_dataset: `Judgments`, or preference rows in TRL's format (a `datasets.Dataset`, a list of dicts).
        eval_dataset: the same, for evaluation.
        trainer_arguments: passed on to `transformers.Trainer` (callbacks, optimizers ...).
    """

    args: Any

    def __init__(
        self,
        text_model: TextModel,
        args: JudgmentConfig,
        train_dataset: Dataset | None,
        eval_dataset: Dataset | None,
        **trainer_arguments: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise PluralignError("several GPUs in one process are not supported: start with `accelerate launch`")
        if train_dataset is None:
            raise PluralignError("no training judgments were given")
        judgments = as_judgments(train_dataset)
        self.text_model = text_model
        self.train_items, self.train_tokens = self._tokenized(judgments, "training")
        self.source_names, sources = _numbered(judgments, self.train_items)
        self._eval_of: dict[int, Evaluated] = {}  # by identity
        super().__init__(
            model=text_model.model,
            args=args,
            train_dataset=JudgmentIndices(self.train_items.judgments),
            eval_dataset=eval_dataset,
            processing_class=text_model.tokenizer,
            **trainer_arguments,
        )
        with self.accelerator.autocast():
            self.layout = self._laid_out(text_model.layout(self.train_tokens, args.layout, args.max_tokens_per_row))
        self.data_collator: Any = JudgmentCollator(
            self.train_items, self.train_tokens, self.layout, sources, self._opposite()
        )
        self.loss_is_scaled_for_ga = True
        self.label_names: list[str] = []
        self.add_callback(CompletionMarker())
        self._sums: dict[str, Tensor] = {}

    # What a subclass says.

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor, opposite: Tensor | float = 0.0) -> Tensor:
        """`(judgments, responses)` twice to `(judgments,)`: what the method says a judgment's probability is."""
        raise NotImplementedError

    def _utilities(self, values: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Values of the responses of a training batch `(responses,)` to their utilities."""
        return values

    def _eval_utilities(self, values: np.ndarray, tokens: TokenizedItems) -> np.ndarray:
        """Values of all responses of some texts to their utilities."""
        return values

    def _penalty(self, utilities: Tensor, ranks: Tensor) -> Tensor | float:
        """`(judgments,)` added to the losses."""
        return 0.0

    def _opposite(self) -> Any:
        """Shares of opposite votes for the collator, if the method wants them."""
        return None

    def _tokenized(self, judgments: Judgments, name: str) -> tuple[Items, TokenizedItems]:
        items = items_of(judgments)
        tokens = self.text_model.tokenize(items)
        logger.info(
            f"{name}: {items.judgments} judgments on {len(items.responses)} responses "
            f"to {len(items.prompts)} prompts"
        )
        if items.left_out:
            logger.warning(f"{name}: {items.left_out} row(s) rank nothing and are left out")
        if tokens.cut_prompts or tokens.cut_responses:
            limits = self.text_model.limits
            logger.warning(
                f"{name}: {tokens.cut_prompts} of {len(items.prompts)} prompts were cut on the left and "
                f"{tokens.cut_responses} of {len(items.responses)} responses on the right, to "
                f"{limits.max_length} tokens (responses to {limits.response}): "
                "raise max_length or max_response_length to keep them whole"
            )
        return items, tokens

    def _laid_out(self, layout: Layout) -> Layout:
        """One block per batch where processes share weights layer by layer and must call in step."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return replace(layout, block_tokens=math.inf)
        return layout

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
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
        """A quarter of an optimiser step, so that what is learnt does not depend on how a step is divided."""
        return self.args.judgments_per_group or max(1, self._step // 4)

    @property
    def _order_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _init_training_state(self, max_steps: int, epoch_steps: int, epochs: int, *others: Any) -> tuple[int, int]:
        trained: tuple[int, int] = super()._init_training_state(max_steps, epoch_steps, epochs, *others)
        # A run that was killed after its last step would train on to the end of its epoch.
        return trained if self.state.global_step < max_steps else (epochs, 0)

    # The step's loss: sum of weight * loss over its judgments, by the sum of their weights.

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
        """Weighted sum of the judgments' losses over the weight of the whole step."""
        values = self._read(model, inputs)
        utilities = self._utilities(values, inputs)[inputs["index"]]  # (judgments, responses)
        weight = inputs["weight"]
        total = weight.sum() if num_items_in_batch is None else num_items_in_batch
        losses = self._losses(utilities, inputs)
        losses = losses * self._factor(losses, utilities, inputs, total)
        # Processes average their gradients, so each counts its share as many times as there are processes.
        loss = (weight * losses).sum() / total.clamp(min=torch.finfo(weight.dtype).tiny)
        loss = loss * self.accelerator.num_processes
        with torch.no_grad():
            self._note(utilities, values[inputs["index"]], inputs)
        return (loss, utilities) if return_outputs else loss

    def _read(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Values of the responses of a training batch: `(responses,)`."""
        return torch.cat([block_values(model, block, self.layout) for block in inputs["blocks"]])

    def _losses(self, utilities: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Loss of each judgment of a training batch, by its utilities `(judgments, responses)`: `(judgments,)`."""
        log_likelihood = self.judgment_log_likelihood(utilities, inputs["ranks"], inputs.get("opposite", 0.0))
        return self._penalty(utilities, inputs["ranks"]) - log_likelihood

    def _factor(self, losses: Tensor, utilities: Tensor, inputs: dict[str, Any], total: Tensor) -> Tensor | float:
        """What each judgment's loss is multiplied with, `(judgments,)`; `total` is the weight of the whole step."""
        return inputs.get("factor", 1.0)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Six operations per weight and token that is read."""
        tokens = sum(block["input_ids"].numel() for block in inputs["blocks"])
        return 6 * tokens * sum(weight.numel() for weight in self.text_model.model.parameters())

    # What is logged: sums over judgments since the last log, over all processes.

    def _note(self, utilities: Tensor, values: Tensor, inputs: dict[str, Any]) -> None:
        """Add a batch to the sums: pairs are averaged inside a judgment, judgments by their weight."""
        margins, strict = pair_margins(utilities, inputs["ranks"])
        pairs = strict.sum(-1)
        weight = inputs["weight"] * (pairs > 0)
        mean = strict / pairs.clamp(min=1).unsqueeze(-1)
        agree = (((margins > 0).float() + (margins == 0).float() / 2) * mean).sum(-1)
        self._add("pairs", torch.stack((weight.sum(), (weight * agree).sum(), (weight @ (margins * mean)).sum())))
        if len(self.source_names) > 1:
            of_source = torch.zeros(len(self.source_names) + 1, 2, device=weight.device)
            noted = torch.stack((weight, weight * agree), -1).float()
            self._add("sources", of_source.index_add(0, inputs["source"], noted))

    def _add(self, name: str, sums: Tensor) -> None:
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def _logged(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Sums over all processes to what is logged."""
        weight, agree, margin = sums["pairs"].tolist()
        return {"accuracy": agree / weight, "margin": margin / weight} if weight > 0 else {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the training judgments since the last log showed, `accuracy/source=NAME` included."""
        if self._sums and "loss" in logs:
            sums = {name: self.accelerator.reduce(self._sums[name], "sum").cpu() for name in sorted(self._sums)}
            self._sums = {}
            logs |= self._logged(sums)
            if "sources" in sums:
                for name, (weight, agree) in zip(self.source_names, sums["sources"].tolist(), strict=False):
                    if weight > 0:
                        logs[f"accuracy/source={name}"] = agree / weight
        super().log(logs, start_time)

    # Evaluation: every unique response once, metrics by pluralign.evaluation.

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and the metrics of `evaluate_rewards` on judgments; keys are `eval_loss`, `eval_accuracy` ..."""
        found = self._evaluated(self.eval_dataset if eval_dataset is None else eval_dataset)
        items, sources = found.items, found.sources
        utilities, losses = self._judged(found)
        metrics = {"loss": weighted_mean(losses, items.weight)} | evaluate_rewards(
            utilities,
            items.ranks,
            items.offsets,
            items.prompt,
            items.weight,
            response=items.response,
            slices={"source": sources} if any(sources) else None,
            replicates=0,
        )
        named = {f"{metric_key_prefix}_{key}": float(value) for key, value in metrics.items()}
        self.log(named)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    def _judged(self, found: Evaluated) -> tuple[np.ndarray, np.ndarray]:
        """Utilities of the responses shown `(shown,)`, and the losses of the judgments."""
        utilities = self._eval_utilities(self._values(found.tokens), found.tokens)
        return utilities[found.items.response], -self.log_likelihoods(found.items, utilities)

    def _evaluated(self, dataset: Any) -> Evaluated:
        """A data set as it is evaluated; made once."""
        if dataset is None:
            raise PluralignError("no evaluation judgments were given")
        if id(dataset) not in self._eval_of:
            judgments = as_judgments(dataset)
            items, tokens = self._tokenized(judgments, "evaluation")
            column = judgments.column("source")
            self._eval_of[id(dataset)] = Evaluated(
                dataset, judgments, items, tokens, [column[row] for row in items.row]
            )
        return self._eval_of[id(dataset)]

    def score(self, dataset: Dataset) -> tuple[Items, np.ndarray]:
        """The items of judgments and the utility of each unique response under the model as it is now."""
        items, tokens = self._tokenized(as_judgments(dataset), "evaluation")
        return items, self._eval_utilities(self._values(tokens), tokens)

    def _values(self, tokens: TokenizedItems, model: Any = None, responses: np.ndarray | None = None) -> np.ndarray:
        """`(responses,)`, 0 for those not asked for; each process reads its share of the items."""
        processes, mine = self.accelerator.num_processes, self.accelerator.process_index
        asked = np.arange(len(tokens.item)) if responses is None else responses
        share = asked[tokens.item[asked] % processes == mine]
        with self.accelerator.autocast():
            values = score_tokens(self.model if model is None else model, tokens, self.layout, share)
        total = self.accelerator.reduce(torch.from_numpy(values).to(self.accelerator.device), "sum")
        return total.cpu().numpy()

    def log_likelihoods(
        self, items: Items, utilities: np.ndarray, judgments: np.ndarray | None = None
    ) -> np.ndarray:
        """Log-likelihood of judgments (`None` is all) under utilities `(responses,)`: `(judgments,)`, in nats."""
        chosen = np.arange(items.judgments) if judgments is None else judgments
        found = np.zeros(len(chosen))
        for start in range(0, len(chosen), 4096):
            batch = slice(start, start + 4096)
            responses, ranks = judgment_arrays(items, chosen[batch].tolist())
            found[batch] = self.judgment_log_likelihood(
                torch.from_numpy(utilities[responses]), torch.from_numpy(ranks)
            ).numpy()
        return found

    def mean_loss(self, items: Items, utilities: np.ndarray) -> float:
        """Weighted mean loss of judgments under utilities `(responses,)`, without smoothing or penalty."""
        return weighted_mean(-self.log_likelihoods(items, utilities), items.weight)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Safetensors, config and tokenizer; no pickled arguments."""
        super()._save(output_dir, state_dict)
        if not self.args.should_save:  # one of several processes writes
            return
        folder = Path(output_dir or self.args.output_dir)
        (folder / "training_args.bin").unlink(missing_ok=True)
        remove_recalibration(folder)  # one that is there is of other weights
        if not isinstance(self.model, PreTrainedModel):
            self.model.config.save_pretrained(folder)


def weighted_mean(values: np.ndarray, weight: np.ndarray) -> float:
    """sum w v / sum w, 0 where all weights are."""
    return float(values @ weight) / max(float(weight.sum()), np.finfo(float).tiny)


def as_judgments(dataset: Dataset) -> Judgments:
    """Judgments as they are; anything else is read as preference rows in TRL's format."""
    return dataset if isinstance(dataset, Judgments) else from_trl(dataset)


def load_options(args: JudgmentConfig) -> dict[str, Any]:
    """What a config says about loading its model."""
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
    """Dropout off and adapter on, under a name, as the config says."""
    if args.disable_dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    if peft_config is None:
        return model
    peft_config.task_type = task
    return peft.get_peft_model(model, peft_config, adapter_name=name)


def _numbered(judgments: Judgments, items: Items) -> tuple[list[str], np.ndarray]:
    """The names of the sources and the number of each judgment's; one past the last for none."""
    column = judgments.column("source")
    of_judgment = [column[row] for row in items.row]
    names = sorted({name for name in of_judgment if name is not None})
    numbers = {name: number for number, name in enumerate(names)} | {None: len(names)}
    return names, np.array([numbers[name] for name in of_judgment], dtype=np.int64)
