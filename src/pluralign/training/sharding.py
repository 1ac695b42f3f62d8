"""Weights that several processes share (FSDP2, DeepSpeed): the part that a process holds, and the whole."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)
from transformers.utils import logging

logger = logging.get_logger(__name__)

_WRAPPER = "_checkpoint_wrapped_module."
"""What activation checkpointing of FSDP puts into the names of weights."""


def local_part(weight: Tensor) -> Tensor:
    """The part of a weight that this process holds; all of it without sharding."""
    if isinstance(weight, DTensor):
        return weight.to_local()
    partition: Tensor = getattr(weight, "ds_tensor", weight)  # where DeepSpeed keeps it
    return partition


def whole(weight: Tensor) -> Tensor:
    """A weight without gradient; if it is sharded, every process must ask for it."""
    if not isinstance(weight, DTensor):
        return weight.detach()
    gathered: Tensor = weight.full_tensor()
    return gathered.detach()


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
    """Let every process load all weights, also under `accelerate launch --use_fsdp` and DeepSpeed ZeRO-3.

    By default all processes but one would load empty weights there, or all of them a part, and what is read before
    the weights are sharded, such as the reference's log-probabilities, would be wrong. For ZeRO-3 `load_parts_again`
    ends it, and so does the making of an accelerator.
    """
    if is_deepspeed_zero3_enabled():
        unset_hf_deepspeed_config()
    on = {"1", "true", "yes", "on", "y", "t"}
    key = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in on and os.environ.get(key, "").lower() in on:
        logger.warning("fsdp_cpu_ram_efficient_loading: set to false, because models are read before they are sharded")
        os.environ[key] = "false"


def load_parts_again(config: Any) -> None:
    """Let libraries know again that DeepSpeed shares the weights, for example in `generate`."""
    set_hf_deepspeed_config(config.hf_deepspeed_config)
