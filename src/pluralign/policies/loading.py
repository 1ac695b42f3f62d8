"""Load policies from folders and the hub: a causal model, an adapter, several adapters, or a mixture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch

from pluralign.core.errors import PluralignError
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.policy import Policy
from pluralign.scoring.causal_models import load_causal_model
from pluralign.scoring.loading import on_device, weight_errors
from pluralign.scoring.mixtures import is_mixture, read_mixture


def load_policy(
    model_name_or_path: str | os.PathLike[str],
    *,
    adapters: Mapping[str, str | os.PathLike[str]] | None = None,
    max_length: int | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    **model_kwargs: Any,
) -> Policy:
    """Load a policy: a causal language model, an adapter, a mixture, or a base with named adapters.

    A mixture is a finished run of `em-dpo`, or the `mixture` folder of `aggregate`; it loads as a `MixturePolicy`.
    Arguments that are not listed are those of `load_causal_model`.

    Args:
        model_name_or_path: a folder or a hub id; the base if `adapters` are given.
        adapters: names and folders of PEFT adapters on the base; `Policy.using` selects one. The first is active.
        device: default: a GPU if there is one.

    Raises:
        PluralignError: there is no such model or adapter, it is not a causal language model, or `adapters` are given
            for a mixture.
    """
    folder = Path(model_name_or_path)
    mixture = None
    if is_mixture(folder):
        if adapters is not None:
            raise PluralignError(f"{folder}: is a mixture, which has its own adapters: omit `adapters`")
        mixture = read_mixture(folder)
        first, *others = mixture.weights
        model_name_or_path, adapters = folder / first, {name: folder / name for name in others}
    loaded = load_causal_model(
        model_name_or_path,
        adapter_name="default" if mixture is None else next(iter(mixture.weights)),
        max_length=max_length,
        revision=revision,
        trust_remote_code=trust_remote_code,
        **model_kwargs,
    )
    model = loaded.model
    for name, path in (adapters or {}).items():
        if not (Path(path) / "adapter_config.json").exists():
            raise PluralignError(f"{path}: not an adapter (adapter_config.json is missing)")
        with weight_errors(path):
            if isinstance(model, peft.PeftModel):
                model.load_adapter(str(path), adapter_name=name)
            else:
                model = peft.PeftModel.from_pretrained(model, str(path), adapter_name=name)
    parts = (on_device(model, device), loaded.tokenizer, loaded.limits)
    return Policy(*parts) if mixture is None else MixturePolicy(*parts, mixture=mixture)
