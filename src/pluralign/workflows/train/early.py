"""What is wrong with a training config as far as it can be told in a moment, before heavy libraries load."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pluralign.core.errors import PluralignError
from pluralign.core.model_names import check_model_name
from pluralign.core.source_fields import field_names
from pluralign.training.objectives import OBJECTIVES
from pluralign.workflows.train.settings import (
    Given,
    RunKeys,
    by_type,
    check_files,
    check_known,
    check_present,
    check_value,
    fields_of,
    read_flags,
    read_yaml,
)

REQUIRED = ("objective", "model_name_or_path", "train_files", "output_dir")
"""Keys that every config needs."""

MODELS = ("model_name_or_path", "reward_model", "chat_template_path")
"""Keys that name models: folders or hub ids."""


def check_early(config: Path, flags: Sequence[str]) -> None:
    """Check the objective, the files and the names of the keys; `workflows.train.run.check` checks everything.

    Raises:
        PluralignError: something is wrong, with its line.
    """
    given: Mapping[str, Given] = by_type({**read_yaml(config), **read_flags(flags)})
    check_present(given, REQUIRED[:1], str(config))
    objective = OBJECTIVES[check_value(given["objective"], str, choices=tuple(OBJECTIVES))]
    with contextlib.suppress(LookupError, OSError, SyntaxError, RecursionError):  # what cannot be read is checked later
        known = field_names(objective.config_module, f"{objective.stem}Config") | field_names("trl", "ModelConfig")
        check_known(given, sorted({*fields_of(RunKeys)} | known))
    check_present(given, REQUIRED, str(config))
    check_files(given)
    for key in MODELS:
        if key in given:
            names = given[key].value
            for name in names if isinstance(names, list) else [names]:
                try:
                    check_model_name(str(name))
                except PluralignError as fault:
                    raise given[key].complain(str(fault)) from fault
