"""MORE: one reward model over several preference sources, weighted by their gradients (arXiv 2312.07401).

How it differs from the paper: the sources' weights are the exact min-norm point (non-negative least squares), not
Frank-Wolfe's approximation; a step may hold any number of judgments of a source, on any number of devices and
micro-batches, with one set of weights for the whole step; rankings as well as pairs; sources may be soft, the
latent types of the annotators; each unique response of a batch is read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers.utils import logging

from pluralign.choice.min_norm import SmoothedGramian, gradient_sums, min_norm_weights, residuals
from pluralign.core.errors import PluralignError
from pluralign.core.files import write_parquet
from pluralign.judgments.inputs import Files
from pluralign.judgments.joining import join_sources
from pluralign.judgments.reading import Inputs, read
from pluralign.judgments.table import Judgments
from pluralign.scoring.forward import block_states
from pluralign.scoring.probe import plain_model
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.soft_sources import soft_sources
from pluralign.training.more.source_batches import BalancedSampler, ProportionalSampler, SourceCollator, members_of
from pluralign.training.more.source_logs import SourceLogs, mean_weights, source_history
from pluralign.training.objective import TrainingRun, trainer_config
from pluralign.training.response_trainer import ModelOrName
from pluralign.training.reward_trainer import RewardTrainer

logger = logging.get_logger(__name__)

AVERAGES = "source_gradients.safetensors"
"""The file of a checkpoint that holds the moving averages of the sources' gradients."""


class MORETrainer(RewardTrainer):
    """Trains one reward model on several sources of judgments.

    Args:
        model: as in `RewardTrainer`; its head must be one linear layer.
        args: the config.
        train_dataset: `Judgments` with a `source` in every row, or a dict of data sets, one for each source; a data set
            is what `read` takes.
        eval_dataset: what `read` takes.
        others: as in `RewardTrainer`.

    Raises:
        PluralignError: a judgment has no source, a step cannot hold all sources, or the head is not linear.

    Train on two sources:

        args = pluralign.MOREConfig("runs/both", per_device_train_batch_size=16)
        sources = {"helpful": pluralign.read("helpful.parquet"), "harmless": pluralign.read("harmless.parquet")}
        pluralign.MORETrainer("my-model", args, train_dataset=sources).train()
    """

    args: MOREConfig

    def __init__(
        self,
        model: ModelOrName,
        args: MOREConfig | None = None,
        data_collator: None = None,
        train_dataset: Files | Mapping[str, Files] | None = None,
        *given: Any,
        **others: Any,
    ) -> None:
        args = trainer_config(args, MOREConfig, model, data_collator)
        if isinstance(train_dataset, Mapping):
            train_dataset = join_sources({name: read(own) for name, own in train_dataset.items()})
        elif train_dataset is not None:
            train_dataset = read(train_dataset)
        if args.only_source is not None and train_dataset is not None:
            train_dataset = _only(train_dataset, args.only_source)
        super().__init__(model, args, None, train_dataset, *given, **others)
        _check_head(plain_model(self.reward_model.model))
        collator = self.data_collator
        if args.source == "types":
            if train_dataset is None:
                raise PluralignError("no training judgments were given")
            soft = soft_sources(train_dataset, self.train_items.row, args)
            self.sources = [f"{kind + 1}" for kind in range(soft.shares.shape[1])]
            row, shares = soft.row, torch.from_numpy(soft.shares).float()
        else:
            self.sources = self.source_names
            self._members = members_of(collator.sources, self.sources)
            self._check_step()
            row, shares = collator.sources, torch.eye(len(self.sources))
        self.data_collator = SourceCollator(collator, row, shares)
        if len(self.sources) == 2 and args.weights == "more" and args.normalize == "l2":
            logger.warning(
                "two sources: with normalize: l2 their weights are always equal, as with weights: uniform, because the "
                "shortest point between two vectors of one length is their midpoint; normalize: none gives other ones"
            )
        self._fixed = self._fixed_weights()
        self.source_logs = SourceLogs("type" if args.source == "types" else "source", self.sources)
        self._smoothed = SmoothedGramian(args.new_gradient_share)
        self._step_weights: Tensor | None = None  # lambda of the step under accumulation
        self._step_counts = torch.zeros(len(self.sources))  # n_k of the step

    def _check_step(self) -> None:
        sizes = [len(own) for own in self._members]
        if self._step < len(sizes):
            raise PluralignError(
                f"per_device_train_batch_size: a step of {self._step} judgments cannot hold {len(sizes)} sources; "
                f"give {len(sizes)} or more"
            )
        if self.args.sampling == "balanced":
            draws = self._draws
            times = ", ".join(f"{name} {draws / size:.2f}" for name, size in zip(self.sources, sizes, strict=True))
            logger.info(f"an epoch draws {draws} judgments of each source; passes through each: {times}")

    @property
    def _draws(self) -> int:
        return self.args.judgments_per_source or max(len(own) for own in self._members)

    def _fixed_weights(self) -> np.ndarray:
        given = self.args.source_weights
        if given is None:
            return np.ones(len(self.sources))
        if set(given) != set(self.sources):
            raise PluralignError(
                f"source_weights: found {', '.join(sorted(given))}, expected one for each of {', '.join(self.sources)}"
            )
        weights = np.array([given[name] for name in self.sources])
        if not weights.any():
            raise PluralignError("source_weights: all are 0, expected at least one above 0")
        return weights

    @property
    def counts_pairs(self) -> bool:
        """Whether `loss_type` counts pairs."""
        return self.args.loss_type == "bradley-terry"

    @property
    def top(self) -> int | None:
        """The `top` of the config."""
        return self.args.top

    def _order(self) -> Sampler[int]:
        if self.args.source == "types" or self.args.train_sampling_strategy == "sequential":
            return super()._order()
        # Each source has its share of a step, and groups of judgments on one prompt are a quarter of that.
        group = max(1, self._group // len(self._members))
        seed = (self._order_seed,)
        if self.args.sampling == "proportional":
            return ProportionalSampler(self.train_items, self._members, group, seed)
        return BalancedSampler(self.train_items, self._members, self._draws, group, seed)

    # One pass: the values, the pooled states under them, lambda, and the loss.

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """sum_k lambda_k (mean loss of source k) over the step; a single batch counts as a step."""
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        counts = torch.zeros(len(self.sources), device=device)
        for batch in batch_samples:
            counts += batch["weight"].to(device) @ batch["membership"].to(device)
        self._step_counts = self.accelerator.reduce(counts, reduction="sum")
        whole = self.args.granularity == "step" and self.args.weights == "more"
        self._step_weights = self._ahead(batch_samples) if whole and len(batch_samples) > 1 else None
        return self._step_counts.sum()

    def _ahead(self, batches: list[Any]) -> Tensor:
        """lambda of a step of several micro-batches, from their gradients, without a backward pass."""
        sums: Tensor | float = 0.0
        self.model_wrapped.train()  # before the first step the trainer has not done so yet
        for batch in batches:
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                values = self._read(self.model_wrapped, inputs)
            utilities = values[inputs["index"]].requires_grad_()
            with torch.enable_grad():
                losses = self._losses(utilities, inputs)
            sums = sums + self._gradient_sums(losses, utilities, inputs)
        return self._solved(self.accelerator.reduce(sums, "sum"), self._step_counts)

    def _read(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        read = [block_states(model, block, self.layout) for block in inputs["blocks"]]
        self._states = torch.cat([states.detach() for _, states in read]).float()
        return torch.cat([values for values, _ in read])

    def _gradient_sums(self, losses: Tensor, utilities: Tensor, inputs: dict[str, Any]) -> Tensor:
        membership = inputs["membership"] * inputs["weight"].unsqueeze(-1)
        return gradient_sums(residuals(losses, utilities), inputs["index"], self._states, membership)

    def _factor(self, losses: Tensor, utilities: Tensor, inputs: dict[str, Any], total: Tensor) -> Tensor | float:
        """lambda_k N / n_k for the source of each judgment, averaged over its sources if they are soft."""
        if not utilities.requires_grad:
            return 1.0
        membership, weight = inputs["membership"], inputs["weight"]
        with torch.autocast(utilities.device.type, enabled=False):  # sums over a step need full precision
            counts = self._step_counts
            if self.args.granularity == "micro":
                counts = self.accelerator.reduce(weight @ membership, "sum")
            if self._step_weights is not None:
                lambdas = self._step_weights
            elif self.args.weights == "more":
                sums = self.accelerator.reduce(self._gradient_sums(losses, utilities, inputs), "sum")
                lambdas = self._solved(sums, counts)
            else:
                lambdas = self._given_weights(counts)
            present = counts > 0
            ratio = lambdas * counts.sum() / counts.where(present, torch.ones_like(counts))
            factor = torch.where(present, ratio, 0.0)
            with torch.no_grad():
                self.source_logs.note_judgments(utilities, inputs, losses)
            return membership @ factor

    def _given_weights(self, counts: Tensor) -> Tensor:
        """lambda if it does not depend on the gradients."""
        everyone = torch.ones_like(counts)
        given = {"uniform": everyone, "proportional": counts, "fixed": torch.from_numpy(self._fixed).to(counts)}
        chosen = given[self.args.weights]
        present = chosen * (counts > 0)
        # If only sources of weight 0 are present, the weight stays with the absent ones and nothing is learnt.
        lambdas = next(weights for weights in (present, chosen, everyone) if weights.sum() > 0)
        lambdas = lambdas / lambdas.sum()
        self.source_logs.note_weights(lambdas, counts)
        return lambdas

    def _solved(self, sums: Tensor, counts: Tensor) -> Tensor:
        """lambda from the sums of the sources' gradients over all processes, `(sources, d)`."""
        present = counts > 0
        gradients = sums / counts.where(present, torch.ones_like(counts)).unsqueeze(-1)
        inner = self._smoothed.add(gradients.unsqueeze(0), present.unsqueeze(0))
        if not present.any():  # every weight of the step is 0
            return torch.full_like(counts, 1 / len(counts))
        weights = min_norm_weights(inner, normalize=self.args.normalize, present=present.cpu().numpy())
        lambdas = torch.from_numpy(weights).to(counts)
        self.source_logs.note_weights(lambdas, counts, inner)
        return lambdas

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each source's weight, loss, accuracy, calibration error and gradient norm, and the cosines."""
        if "loss" in logs or "train_loss" in logs:  # the final log covers the steps since the last one
            logs |= self.source_logs.taken(self.accelerator)
        super().log(logs, start_time)

    @classmethod
    def read_files(cls, files: Inputs, label_scale: str | None) -> Judgments:
        """The files as one table; if there are several, a row without a source gets the name of its file."""
        if len(files.names) == 1:
            return super().read_files(files, label_scale)
        names = [Path(file).name.split(".")[0] for file in files.names]
        if len(set(names)) < len(names):
            names = files.names
        twice = [file for file in files.names if files.names.count(file) > 1]
        if twice:
            raise PluralignError(f"{twice[0]}: is given twice, and each file is a source: give it once")
        return join_sources({name: one.read(label_scale) for name, one in zip(names, files.each(), strict=True)})

    def training_metrics(self) -> dict[str, Any]:
        """The mean weight of each source, and the tie parameter where ties have one."""
        return super().training_metrics() | mean_weights(self.state.log_history, self.source_logs.kind, self.sources)

    def after_saving(self, run: TrainingRun) -> dict[str, Any]:
        """Write `sources.parquet`, the logs of each source."""
        history = source_history(self.state.log_history, self.source_logs.kind, self.sources)
        write_parquet(history, run.folder / "sources.parquet")
        return {}

    # The moving average is part of a checkpoint.

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._smoothed.state and self.args.should_save:
            safetensors.torch.save_file(self._smoothed.state, Path(output_dir) / AVERAGES)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        file = None if checkpoint is None else Path(checkpoint) / AVERAGES
        if file is not None and file.exists():
            self._smoothed = SmoothedGramian(self.args.new_gradient_share, state=safetensors.torch.load_file(file))


def _only(judgments: Judgments, name: str) -> Judgments:
    """The judgments of one source."""
    column = judgments.column("source")
    rows = [row for row, source in enumerate(column) if source == name]
    if not rows:
        known = ", ".join(sorted({source for source in column if source is not None}))
        raise PluralignError(f"only_source: no judgment of '{name}'; there are: {known or 'none'}")
    return judgments.select(rows)


def _check_head(model: Any) -> None:
    head = model.score
    while isinstance(head, ModulesToSaveWrapper | BaseTunerLayer):
        head = head.original_module if isinstance(head, ModulesToSaveWrapper) else head.get_base_layer()
    if not isinstance(head, nn.Linear):
        raise PluralignError(
            f"model: its head is {type(head).__name__}, expected one linear layer: the sources' weights come from "
            "its gradients; build the model with build_reward_model"
        )
