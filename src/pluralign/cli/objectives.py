"""The objectives of `train`, as far as the command line needs them; no heavy library is imported before it is used."""

from __future__ import annotations

SUMMARIES = {
    "bradley-terry": "Reward model from pairs.",
    "plackett-luce": "Reward model from whole rankings.",
    "more": "Reward model over several sources of judgments.",
    "dprm": "Reward model that predicts how a crowd labels a response.",
    "dpo": "Policy from pairs and rankings by direct preference optimisation.",
    "em-dpo": "Latent annotator types and a policy for each.",
    "pm-dpo": "Policy from pairs and rankings by preference matching.",
    "pm-rlhf": "Policy that matches a reward model, trained online.",
    "sft": "Language model from the responses of a table.",
}
"""Each objective in one line."""


def config_of(objective: str) -> type:
    """The config class of an objective."""
    from pluralign.workflows.train.trainers import OBJECTIVES

    return OBJECTIVES[objective][0]


def hidden_keys(objective: str) -> set[str]:
    """Fields of the config classes that a config file may not set."""
    from pluralign.workflows.train import run

    return run._OURS_TO_SET if objective in ("sft", "pm-rlhf") else run._OURS_TO_SET | run._NOT_ON_JUDGMENTS
