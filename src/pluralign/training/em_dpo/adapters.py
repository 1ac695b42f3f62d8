"""The tensors of the types' adapters, which share one base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def adapter_weights(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The weights of some adapters of a PEFT model."""
    marks = [f".{name}." for name in names]
    return {key: weight for key, weight in model.named_parameters() if any(mark in key for mark in marks)}


def copied_weights(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Copies of `adapter_weights` on the CPU."""
    return {key: weight.detach().cpu().clone() for key, weight in adapter_weights(model, names).items()}


def set_weights(model: nn.Module, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Set the adapters; one that is not among the tensors is set as the first."""
    with torch.no_grad():
        for name in names:
            for key, weight in adapter_weights(model, [name]).items():
                weight.copy_(tensors[key if key in tensors else key.replace(f".{name}.", f".{names[0]}.")])


def use_adapter(model: Any, name: str) -> None:
    """Make an adapter the active one. Switching freezes the others; an optimiser keeps them, without gradients."""
    if model.active_adapter != name:
        model.set_adapter(name)
