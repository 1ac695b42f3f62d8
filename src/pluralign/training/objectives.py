"""The table of objectives: name to config and trainer. Their modules load when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import transformers


class Entry(NamedTuple):
    """An objective: the module of its trainer in this package, and its classes `STEMConfig` and `STEMTrainer`.

    `product` is what a run does, as the first words of its report; `summary` is the line in a list of objectives.
    """

    module: str
    stem: str
    product: str
    summary: str

    @property
    def config_module(self) -> str:
        """The module that the config class is taken from."""
        return f"{__package__}.{self.module}"

    @property
    def config(self) -> type[transformers.TrainingArguments]:
        """The config class."""
        return self._named("Config")

    @property
    def trainer(self) -> type[Any]:
        """The trainer class, with the mixin `Objective`."""
        return self._named("Trainer")

    def _named(self, kind: str) -> Any:
        return getattr(importlib.import_module(self.config_module), self.stem + kind)


OBJECTIVES = {
    "bradley-terry": Entry("reward_trainer", "BradleyTerry", "Model trained", "Reward model from pairs."),
    "plackett-luce": Entry("reward_trainer", "PlackettLuce", "Model trained", "Reward model from whole rankings."),
    "more": Entry("more.trainer", "MORE", "Model trained", "Reward model over several sources of judgments."),
    "dprm": Entry("dprm.trainer", "DPRM", "Model trained", "Reward model that predicts how a crowd labels a response."),
    "dpo": Entry("dpo", "DPO", "Policy tuned", "Policy from pairs and rankings."),
    "em-dpo": Entry(
        "em_dpo.trainer", "EMDPO", "Types found and their policies tuned", "A policy for each latent type."
    ),
    "pm-dpo": Entry("preference_matching.dpo", "PMDPO", "Policy tuned", "Policy that matches pairs and rankings."),
    "pm-rlhf": Entry(
        "preference_matching.rlhf", "PMRLHF", "Policy matched to a reward", "Policy that matches a reward."
    ),
    "sft": Entry("sft", "SFT", "Language model trained", "Language model from the responses of a table."),
}
