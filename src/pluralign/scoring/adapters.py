"""Merge adapters into their base while texts are scored, which is faster than running them beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import nn


def can_merge(model: Any, adapter: str) -> bool:
    """Whether merging is exact: plain linear layers in float32 (shorter formats would round again)."""
    layers = _layers(model, adapter)
    return bool(layers) and all(
        type(layer) is Linear
        and type(layer.get_base_layer()) is nn.Linear
        and layer.get_base_layer().weight.dtype == torch.float32
        and adapter not in layer.lora_variant  # variants such as DoRA do more than add
        and not layer.lora_bias[adapter]
        for layer in layers
    )


@contextmanager
def merged(model: Any, adapter: str) -> Iterator[None]:
    """Merge an adapter into its base within a context; afterwards a copy restores every weight to the bit."""
    layers = _layers(model, adapter)
    kept = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            layer.merge(adapter_names=[adapter])
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                layer.get_base_layer().weight.copy_(weight)
                layer.merged_adapters.clear()


def _layers(model: Any, adapter: str) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer) and adapter in module.lora_A]
