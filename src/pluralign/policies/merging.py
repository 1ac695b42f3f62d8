"""Merged policies: one LoRA adapter that is the weighted sum of the adapters of several types.

    W + sum_k lambda_k s_k B_k A_k,   s_k the scaling of adapter k

The sum is exact: its rank is the sum of the ranks (`PeftModel.add_weighted_adapter`, combination type `cat`). It costs
no more at inference than one adapter, and merges into the base like any other.

Source: "Rewarded soups", arXiv 2306.04488, which interpolates whole models on the simplex; here lambda is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import peft

from pluralign.core.errors import PluralignError
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.policy import Policy
from pluralign.scoring.adapters import without_card
from pluralign.scoring.loading import save_config

_MERGED = "default"
"""The name of the merged adapter in memory: PEFT saves only the default adapter at the top of a folder."""


@contextmanager
def merged_policy(policy: MixturePolicy, weights: Mapping[str, float]) -> Iterator[Policy]:
    """Within a context, the policy whose adapter is the weighted sum of a mixture's adapters.

    Args:
        policy: provides the model and the adapters; afterwards it is as it was.
        weights: lambda of each adapter by name, any finite number.

    Raises:
        PluralignError: the adapters cannot be summed exactly.
    """
    if reason := why_not_merged(policy):
        raise PluralignError(f"the adapters of the types cannot be merged: {reason}")
    model = policy.model
    active = model.active_adapter
    names = list(weights)
    first = model.peft_config[names[0]]
    # With rsLoRA the merged adapter would be scaled a second time, by the square root of its rank.
    model.peft_config[names[0]] = replace(first, use_rslora=False)
    try:
        if len(names) == 1:  # PEFT has no `cat` of one adapter: twice half of it is the same
            names, values = names * 2, [weights[names[0]] / 2] * 2
        else:
            values = list(weights.values())
        model.add_weighted_adapter(names, values, _MERGED, combination_type="cat")
    finally:
        model.peft_config[names[0]] = first
    model.set_adapter(_MERGED)
    try:
        yield Policy(model, policy.tokenizer, policy.limits)
    finally:
        model.set_adapter(active)
        model.delete_adapter(_MERGED)


def write_merged(policy: MixturePolicy, weights: Mapping[str, float], folder: Path) -> None:
    """Write the merged adapter as a folder that `load_policy` and `peft` take, with config and tokenizer."""
    with merged_policy(policy, weights) as merged:
        with without_card(folder):
            merged.model.save_pretrained(folder, selected_adapters=[_MERGED])
        save_config(merged.model.config, folder)
        merged.tokenizer.save_pretrained(folder)


def why_not_merged(policy: MixturePolicy) -> str | None:
    """Why the adapters of a mixture cannot be summed exactly, or None if they can."""
    for name in policy.mixture.weights:
        config = policy.model.peft_config[name]
        if not isinstance(config, peft.LoraConfig):
            return f"{name} is a {config.peft_type} adapter, and only LoRA adapters are sums"
        for option in ("use_dora", "lora_bias", "modules_to_save", "target_parameters"):
            if getattr(config, option):
                return f"{name} was tuned with {option}, which is more than a sum of matrices"
        if config.bias != "none":
            return f"{name} was tuned with bias: {config.bias}, and a bias is not part of the sum"
    return None
