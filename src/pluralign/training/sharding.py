"""Weights that several processes share (FSDP2): the part that a process holds, and the whole."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.utils import logging

logger = logging.get_logger(__name__)

_WRAPPER = "_checkpoint_wrapped_module."
"""What activation checkpointing of FSDP puts into the names of weights."""


def local_part(weight: Tensor) -> Tensor:
    """The part of a weight that this process holds; all of it without sharding."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def whole(weight: Tensor) -> Tensor:
    """A weight without gradient; if it is sharded, every process must ask for it."""
    detached: Any = weight.detach()
    return detached.full_tensor() if isinstance(weight, DTensor) else detached


def set_whole(weight: Tensor, value: Tensor) -> None:
    """Set a weight in place; if it is sharded, every process sets it, to the same value."""
    with torch.no_grad():
        if isinstance(weight, DTensor):
            given = value.to(device=weight.device, dtype=weight.dtype)
            weight.copy_(distribute_tensor(given, weight.device_mesh, weight.placements))
        else:
            weight.copy_(value)


def unwrapped_name(name: str) -> str:
    """The name of a weight as it is without FSDP's activation checkpointing.

    Examples:
        >>> unwrapped_name("layers.0._checkpoint_wrapped_module.mlp.weight")
        'layers.0.mlp.weight'
    """
    return name.replace(_WRAPPER, "")


def load_whole_weights() -> None:
    """Let every process load all weights, also under `accelerate launch --use_fsdp`.

    By default all processes but one would load empty weights there, and what is read before the weights are sharded,
    such as the reference's log-probabilities, would be wrong.
    """
    on = {"1", "true", "yes", "on", "y", "t"}
    key = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in on and os.environ.get(key, "").lower() in on:
        logger.warning("fsdp_cpu_ram_efficient_loading: set to false, because models are read before they are sharded")
        os.environ[key] = "false"
