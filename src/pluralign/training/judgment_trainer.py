"""Training on rankings and pairs with one value per response and a likelihood of the judgments.

Batches, steps and logs are those of `pluralign.training.response_trainer`; evaluation reads each response once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from transformers.utils import logging

from pluralign.choice.likelihoods import RankingLikelihood
from pluralign.choice.plackett_luce import pair_margins
from pluralign.core.errors import PluralignError
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import Inputs, read
from pluralign.judgments.table import Judgments
from pluralign.scoring.items import Items, compares, items_of, nothing_ranked
from pluralign.scoring.loading import SETTINGS, TIE_NU
from pluralign.scoring.measured import Measured, column_of, outcome_metrics, pairs_under, reward_metrics, slices_of
from pluralign.scoring.text_models import TextModel
from pluralign.scoring.tokens import TokenizedItems
from pluralign.training.batches import JudgmentCollator, judgment_arrays
from pluralign.training.choice_parameters import ChoiceParameter, chosen_ties
from pluralign.training.configs import JudgmentConfig
from pluralign.training.response_trainer import ResponseTrainer, weighted_judgments, weighted_mean

logger = logging.get_logger(__name__)

CHOICE_PARAMETERS = "choice_parameters.safetensors"
"""The file of a checkpoint that holds what is learned beside the model."""


@dataclass(frozen=True)
class Evaluated:
    """A data set for evaluation, kept alive with its texts."""

    dataset: Any
    judgments: Judgments
    items: Items
    tokens: TokenizedItems


class JudgmentTrainer(ResponseTrainer):
    """Subclasses prepare the model and define the likelihood of a judgment.

    Args:
        text_model: the model with its adapter, tokenizer and limits.
        args: the config.
        train_dataset: what `read` takes, such as `Judgments`, a `datasets.Dataset` or a frame; also in TRL's format.
        eval_dataset: the same, for evaluation.
        trainer_arguments: passed on to `transformers.Trainer` (callbacks, optimizers ...).
    """

    reports_over_rewarding: ClassVar[bool] = False
    """Whether held-out judgments are also reported as over-rewarding by source and group."""

    def __init__(
        self,
        text_model: TextModel,
        args: JudgmentConfig,
        train_dataset: Files | None,
        eval_dataset: Files | None,
        **trainer_arguments: Any,
    ) -> None:
        if train_dataset is None:
            raise PluralignError("no training judgments were given")
        judgments = weighted_judgments(read(train_dataset), args)
        evaluated = None if eval_dataset is None else read(eval_dataset)
        items = self._ranked(judgments, "training")
        self.source_names, sources = _numbered(judgments, items)
        self._eval_of: dict[int, Evaluated] = {}  # by identity
        getattr(text_model.model.config, SETTINGS).pop(TIE_NU, None)  # of an earlier training
        super().__init__(text_model, args, items, evaluated, **trainer_arguments)
        opposite = self._opposite()
        self.data_collator = JudgmentCollator(items, self.train_tokens, self.layout, sources, opposite)
        self.ties, self.learned_ties = chosen_ties(args.ties, items, self.counts_pairs, opposite is not None)
        self.learned: dict[str, ChoiceParameter] = {}
        """What is learned beside the model, by name."""
        if self.learned_ties is not None:
            self.learned["log_nu"] = self.learned_ties

    @classmethod
    def read_files(cls, files: Inputs, label_scale: str | None) -> Judgments:
        """The files as one table, which must compare responses: that is seen before anything is fitted."""
        judgments = super().read_files(files, label_scale)
        if not compares(judgments):
            raise nothing_ranked(len(judgments))
        return judgments

    # What a subclass defines.

    @property
    def counts_pairs(self) -> bool:
        """Whether a ranking counts as the mean over its pairs, not as a whole."""
        return False

    @property
    def top(self) -> int | None:
        """How many places of a whole ranking count."""
        return None

    @property
    def likelihood(self) -> RankingLikelihood:
        """The likelihood of a judgment, with the tie parameters as they are now."""
        nu = () if self.learned_ties is None else tuple(self.learned_ties.nu)
        return RankingLikelihood(self.counts_pairs, self.ties, self.top, nu)

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor, opposite: Tensor | float = 0.0) -> Tensor:
        """Log-probability of each judgment `(judgments,)` by the method, from `(judgments, responses)` both."""
        learning = self.learned_ties is not None and utilities.requires_grad
        log_nu = self.learned["log_nu"].value if learning else None
        return self.likelihood(utilities, ranks, opposite, log_nu)

    def _eval_utilities(self, values: np.ndarray, tokens: TokenizedItems) -> np.ndarray:
        """Utilities of all responses of some texts, from the model's values."""
        return values

    def _penalty(self, utilities: Tensor, ranks: Tensor) -> Tensor | float:
        """Added to the losses, `(judgments,)`."""
        return 0.0

    def _opposite(self) -> Any:
        """Shares of opposite votes for the collator, if the method uses them."""
        return None

    def _ranked(self, judgments: Judgments, name: str) -> Items:
        """The judgments that rank something; warns of those that do not."""
        items = items_of(judgments)
        logger.info(
            f"{name}: {items.judgments} judgments on {len(items.responses)} responses to {len(items.prompts)} prompts"
        )
        if items.left_out:
            logger.warning(f"{name}: {items.left_out} row(s) rank nothing and are left out")
        return items

    def _tokenized(self, judgments: Judgments, name: str) -> tuple[Items, TokenizedItems]:
        items = self._ranked(judgments, name)
        return items, self._tokens(items, name)

    def _losses(self, utilities: Tensor, inputs: dict[str, Any]) -> Tensor:
        log_likelihood = self.judgment_log_likelihood(utilities, inputs["ranks"], inputs.get("opposite", 0.0))
        return self._penalty(utilities, inputs["ranks"]) - log_likelihood

    # What is learned beside the model moves once in a step of the optimiser, and is part of a checkpoint.

    def _learn(self, losses: Tensor, inputs: dict[str, Any]) -> None:
        if not self.learned or not losses.requires_grad:
            return
        every = list(self.learned.values())
        slopes = torch.autograd.grad(losses.sum(), [own.value for own in every], retain_graph=True)
        for own, slope in zip(every, slopes, strict=True):
            own.note(-slope, inputs["weight"], inputs)
        if self.accelerator.sync_gradients:
            for own in every:
                own.step(self.accelerator)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.learned_ties is not None:
            getattr(self.model.config, SETTINGS)[TIE_NU] = self.learned_ties.nu
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.learned and self.args.should_save:
            kept = {f"{name}.{key}": own for name, it in self.learned.items() for key, own in it.state().items()}
            safetensors.torch.save_file(kept, Path(output_dir) / CHOICE_PARAMETERS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        file = None if checkpoint is None else Path(checkpoint) / CHOICE_PARAMETERS
        if self.learned and file is not None and file.exists():
            kept = safetensors.torch.load_file(file)
            for name, own in self.learned.items():
                own.load({key.split(".", 1)[1]: it for key, it in kept.items() if key.split(".", 1)[0] == name})

    def training_metrics(self) -> dict[str, Any]:
        """The tie parameter of pairs, where ties have one."""
        return {} if self.learned_ties is None else {"tie_nu": self.learned_ties.nu[0]}

    # Logs.

    def _note(self, utilities: Tensor, values: Tensor, inputs: dict[str, Any]) -> None:
        """Add a batch to the sums: pairs are averaged within a judgment, judgments by their weight."""
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

    def _logs(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """The logs of `_logged` with `accuracy/source=NAME` and `tie_nu`."""
        logs = self._logged(sums)
        if self.learned_ties is not None:
            logs["tie_nu"] = self.learned_ties.nu[0]
        if "sources" in sums:
            for name, (weight, agree) in zip(self.source_names, sums["sources"].tolist(), strict=False):
                if weight > 0:
                    logs[f"accuracy/source={name}"] = agree / weight
        return logs

    def _logged(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Logs of all judgments together, from sums over all processes."""
        weight, agree, margin = sums["pairs"].tolist()
        return {"accuracy": agree / weight, "margin": margin / weight} if weight > 0 else {}

    # Evaluation: every unique response is read once.

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and the metrics of `reward_metrics` without intervals; keys are `eval_loss`, `eval_accuracy` ..."""
        data = self._evaluated(self.eval_dataset if eval_dataset is None else eval_dataset)
        utilities = self._scored(data.items, data.tokens)
        types = self._types(data.judgments, data.items)
        metrics = {"loss": self.mean_loss(data.items, utilities, types)}
        metrics |= reward_metrics(data.judgments, data.items, utilities, types=types, replicates=0)
        return self._announced(metrics, metric_key_prefix)

    def measure(self, judgments: Judgments) -> Measured:
        """Loss and the metrics of `reward_metrics` on held-out judgments, and of ties where they have a probability."""
        items, utilities = self.score(judgments)
        metrics = reward_metrics(judgments, items, utilities) | {"eval_loss": self.mean_loss(items, utilities)}
        if self.learned_ties is not None:
            metrics |= outcome_metrics(judgments, items, utilities, self.learned_ties.nu[0])
        slices = slices_of(judgments, items) if self.reports_over_rewarding else None
        return Measured(metrics, pairs_under(items, utilities, judgments=judgments), slices)

    def _types(self, judgments: Judgments, items: Items) -> np.ndarray | None:
        """The type, from 0, under which each judgment is judged `(judgments,)`, where there are types."""
        return None

    def _evaluated(self, dataset: Any) -> Evaluated:
        """A data set prepared for evaluation, once."""
        if dataset is None:
            raise PluralignError("no evaluation judgments were given")
        if id(dataset) not in self._eval_of:
            judgments = read(dataset)
            self._eval_of[id(dataset)] = Evaluated(dataset, judgments, *self._tokenized(judgments, "evaluation"))
        return self._eval_of[id(dataset)]

    def score(self, dataset: Files) -> tuple[Items, np.ndarray]:
        """The items of judgments and the utility of each unique response under the model as it is now."""
        items, tokens = self._tokenized(read(dataset), "evaluation")
        return items, self._scored(items, tokens)

    def _scored(self, items: Items, tokens: TokenizedItems) -> np.ndarray:
        return self._eval_utilities(self._values(tokens), tokens)

    def log_likelihoods(self, items: Items, utilities: np.ndarray, judgments: np.ndarray | None = None) -> np.ndarray:
        """Log-likelihood of judgments (`None` is all) under utilities `(responses,)`: `(judgments,)`, in nats."""
        chosen = np.arange(items.judgments) if judgments is None else judgments
        log_likelihoods = np.zeros(len(chosen))
        for start in range(0, len(chosen), 4096):
            batch = slice(start, start + 4096)
            responses, ranks = judgment_arrays(items, chosen[batch].tolist())
            log_likelihoods[batch] = self.judgment_log_likelihood(
                torch.from_numpy(utilities[responses]), torch.from_numpy(ranks)
            ).numpy()
        return log_likelihoods

    def mean_loss(self, items: Items, utilities: np.ndarray, types: np.ndarray | None = None) -> float:
        """Weighted mean loss of judgments, without smoothing or penalty.

        Args:
            items: the judgments.
            utilities: `(responses,)`; with `types` `(types, responses)`.
            types: the type under which each judgment is judged, from 0, `(judgments,)`.
        """
        if types is None:
            return weighted_mean(-self.log_likelihoods(items, utilities), items.weight)
        losses = np.zeros(items.judgments)
        for kind, own in enumerate(utilities):
            members = np.flatnonzero(types == kind)
            losses[members] = -self.log_likelihoods(items, own, members)
        return weighted_mean(losses, items.weight)


def _numbered(judgments: Judgments, items: Items) -> tuple[list[str], np.ndarray]:
    """The names of the sources, and the number of each judgment's source; judgments without one get the next number."""
    of_judgment = column_of(judgments, items, "source")
    names = sorted({name for name in of_judgment if name is not None})
    numbers = {name: number for number, name in enumerate(names)} | {None: len(names)}
    return names, np.array([numbers[name] for name in of_judgment], dtype=np.int64)
