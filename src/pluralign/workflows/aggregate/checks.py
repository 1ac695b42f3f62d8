"""What `aggregate` is given: the run with its types, prompts, judges and priorities, checked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.choice.regret import priorities
from pluralign.core.errors import PluralignError, nearest
from pluralign.core.runs import CONFIG, read_config, read_metrics
from pluralign.judgments.inputs import inputs_of
from pluralign.judgments.paths import is_hub
from pluralign.policies.mixture import MixturePolicy
from pluralign.scoring.loading import load_parts
from pluralign.scoring.mixtures import MIXTURE as MIXTURE_FILE
from pluralign.scoring.mixtures import Mixture, is_mixture, read_mixture, read_types
from pluralign.workflows.aggregate.answers import BASE
from pluralign.workflows.aggregate.contents import label
from pluralign.workflows.aggregate.distill import distilled
from pluralign.workflows.aggregate.tuning import COMPARED, OFFERED


def types_of(run: Path) -> tuple[Mixture | None, dict[str, Any]]:
    """The policies of the types of a finished run with their shares, and the settings of the run.

    None stands for a run of `em-dpo` that holds a single policy.

    Raises:
        PluralignError: the folder is missing, not finished, or holds no types.
    """
    if not run.is_dir():
        raise PluralignError(f"{run}: no such folder: give a finished run of em-dpo")
    settings: dict[str, Any] = {}
    if (run / CONFIG).exists():
        settings = read_config(run)
        if not (run / "metrics.json").exists():
            raise PluralignError(
                f"{run}: this run is not finished (it has no metrics.json): run its command again first"
            )
    if not (run / MIXTURE_FILE).exists():
        if settings.get("objective") == "em-dpo" and read_metrics(run).get("types") == 1:
            return None, settings
        objective = f" of the objective {settings['objective']}" if "objective" in settings else ""
        raise PluralignError(
            f"{run}: is not a run of em-dpo (it has no {MIXTURE_FILE}): aggregation needs the policies of several "
            f"types, found a folder{objective}"
        )
    mixture = read_types(run)
    if mixture.answers == "letters":
        raise PluralignError(f"{run}: responds with letters of listed options, and aggregation needs texts")
    return mixture, settings


def judges_of(given: Mapping[str, str | os.PathLike[str]] | None, types: Sequence[str]) -> dict[str, str] | None:
    """The reward model of each type, in the order of the types; None if none are given.

    Raises:
        PluralignError: an unknown type, or a type without a reward model.

    Examples:
        >>> judges_of({"2": "runs/b", "type-1": "runs/a"}, ["type-1", "type-2"])
        {'type-1': 'runs/a', 'type-2': 'runs/b'}
    """
    if not given:
        return None
    found = {types[place_of("judge", str(name), types)]: str(path) for name, path in given.items()}
    if missing := [name for name in types if name not in found]:
        raise PluralignError(f"judge: {', '.join(missing)}: no reward model; give one for each type")
    return {name: found[name] for name in types}


def priority_of(given: Mapping[str, float] | Sequence[float] | None, types: Sequence[str]) -> np.ndarray:
    """Priorities in the order of the types.

    Raises:
        PluralignError: an unknown type, a negative number, or not one number per type.

    Examples:
        >>> priority_of({"2": 0.5}, ["type-1", "type-2"]).tolist()
        [1.0, 0.5]
    """
    values: Any = given
    if isinstance(given, Mapping):
        values = np.ones(len(types))
        for name, number in given.items():
            values[place_of("priority", str(name), types)] = number
    try:
        priority = priorities(len(types), values)
    except ValueError as fault:
        raise PluralignError(str(fault)) from fault
    if not priority.any():
        raise PluralignError("priority: every type has 0, so that no policy is better than another: raise one")
    return priority


def place_of(option: str, name: str, types: Sequence[str]) -> int:
    """The place of a type by its name or its number."""
    names = {**{label(kind): place for place, kind in enumerate(types)}, **{n: p for p, n in enumerate(types)}}
    if name not in names:
        raise PluralignError(f"{option}: no type '{name}'; there are: {', '.join(types)}{nearest(name, types)}")
    return names[name]


def one_of(option: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuse a value that is not among those allowed."""
    for name in given:
        if name not in allowed:
            raise PluralignError(f"{option}: found '{name}', expected {', '.join(allowed)}{nearest(name, allowed)}")


def check_names(policies: Mapping[str, str], types: Sequence[str]) -> None:
    """Refuse names of policies that are taken or cannot stand in a metric's key."""
    taken = {*types, BASE, *OFFERED, *map(distilled, OFFERED), *COMPARED}
    for name, path in policies.items():
        if name in taken:
            raise PluralignError(f"policy: the name '{name}' is taken; choose another for {path}")
        if not re.fullmatch(r"[\w.-]+", name) or name.endswith(("_low", "_high", "_se")):
            raise PluralignError(
                f"policy: found the name '{name}', expected letters, digits, '.', '-' and '_', not ending in _low, "
                "_high or _se"
            )


def check_tokens(policy: MixturePolicy, others: Mapping[str, str], source: Path, trusted: bool) -> None:
    """Refuse policies with other tokens before anything is drawn."""
    vocabulary = policy.tokenizer.get_vocab()
    for path in others.values():
        place = Path(path)
        if is_mixture(place):
            place = place / next(iter(read_mixture(place).weights))
        if place.is_dir() and load_parts(place, {"trust_remote_code": trusted})[1].get_vocab() != vocabulary:
            raise PluralignError(
                f"{path}: has other tokens than {source}, so its responses cannot be scored under the policies of the "
                "types: give a policy with the same tokenizer"
            )


def prompt_files(argument: str, given: Any) -> list[str]:
    """The files that are given, or data sets of the hub; empty if there are none."""
    if given is None or (isinstance(given, list | tuple) and not given):
        return []
    sources = inputs_of(given)
    if any(not isinstance(source, Path) and not is_hub(source.name) for source in sources):
        raise PluralignError(f"{argument}: found {type(given).__name__}, expected files or hf:owner/name:split")
    return list(map(str, sources))


def own_files(settings: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """The first list of files in a run's settings that is not empty."""
    return next(([str(file) for file in settings[key]] for key in keys if settings.get(key)), [])


def weight_files(run: Path, types: Sequence[str], policies: Mapping[str, str]) -> list[Path]:
    """The weight files of the policies, whose fingerprints tell whether a policy has changed."""
    folders = [*(run / name for name in types), *map(Path, policies.values())]
    weights = (file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.safetensors")))
    return [run / MIXTURE_FILE, *weights]


def apart(tuning: list[Any], asked: list[Any], most: int, seed: int) -> tuple[list[Any], list[Any], list[str]]:
    """Tuning prompts and held-out prompts without a common one, and a warning if that is not possible."""
    held = {json.dumps(prompt) for prompt in asked}
    draw = np.random.default_rng(seed)
    others = [prompt for prompt in tuning if json.dumps(prompt) not in held]
    warnings = []
    if not others and len(asked) > 1:
        order = draw.permutation(len(asked))
        half = len(asked) // 2
        others, asked = ([asked[place] for place in sorted(part)] for part in (order[:half], order[half:]))
    elif not others:
        others = asked
        warnings.append(
            "There is one prompt for tuning and for measuring: the weights suit it better than they suit other prompts."
        )
    if len(others) > most:
        others = [others[place] for place in sorted(draw.choice(len(others), most, replace=False))]
    return others, asked, warnings
