"""Load policies from folders and the hub: a model, an adapter, several adapters, or what `aggregate` makes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch

from pluralign.core.errors import PluralignError
from pluralign.policies.best_of import BestOfPolicy, is_best_of, read_best_of
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.policy import Policy
from pluralign.policies.pooled import PooledPolicy
from pluralign.scoring.causal_models import load_causal_model
from pluralign.scoring.loading import SETTINGS, load_parts, on_device, weight_errors
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

    A mixture is a finished run of `em-dpo`, or the `mixture` folder of `aggregate`; it loads as a `MixturePolicy`. The
    folders `pooled` and `best-of` load as a `PooledPolicy` and a `BestOfPolicy`; `merge` and distilled policies are
    plain adapters.
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
    if is_best_of(folder):
        if adapters is not None:
            raise PluralignError(f"{folder}: is a best-of policy, which has its own base: omit `adapters`")
        base, settings = read_best_of(folder, trust_remote_code=trust_remote_code, device=device)
        template = folder / "chat_template.jinja"
        options: dict[str, Any] = {"chat_template_path": str(template)} if template.exists() else {}
        stored = getattr(load_parts(folder, {})[0], SETTINGS, None) or {}
        options |= {"max_length": max_length or stored.get("max_length"), "trust_remote_code": trust_remote_code}
        drawn_by = load_causal_model(base, revision=revision, **options, **model_kwargs)
        return BestOfPolicy(on_device(drawn_by.model, device), drawn_by.tokenizer, drawn_by.limits, **settings)
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
    if mixture is None:
        return Policy(*parts)
    return (PooledPolicy if mixture.combination == "pooled" else MixturePolicy)(*parts, mixture=mixture)
