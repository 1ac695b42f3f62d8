"""The tensors of the types' adapters, which share one base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pluralign.training.sharding import set_whole, unwrapped_name, whole


def adapter_weights(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The weights of some adapters of a PEFT model."""
    marks = [f".{name}." for name in names]
    weights = model.named_parameters()
    return {unwrapped_name(key): weight for key, weight in weights if any(mark in key for mark in marks)}


def copied_weights(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Copies of `adapter_weights` on the CPU, the whole ones in every process."""
    return {key: whole(weight).cpu().clone() for key, weight in adapter_weights(model, names).items()}


def set_weights(model: nn.Module, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Set the adapters; one that is not among the tensors is set as the first."""
    for name in names:
        for key, weight in adapter_weights(model, [name]).items():
            set_whole(weight, tensors[key if key in tensors else key.replace(f".{name}.", f".{names[0]}.")])


def use_adapter(model: Any, name: str) -> None:
    """Make an adapter the active one. Switching freezes the others; an optimiser keeps them, without gradients."""
    if model.active_adapter != name:
        model.set_adapter(name)
