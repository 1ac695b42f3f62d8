"""Merge adapters into their base while texts are scored, which is faster than running them beside it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import nn

from pluralign.core.files import write_json
from pluralign.core.records import read_json


def sort_adapter_config(folder: str | os.PathLike[str]) -> None:
    """Sort what PEFT holds as sets in an adapter's `adapter_config.json`, so that equal runs write equal files."""
    file = Path(folder) / "adapter_config.json"
    if not file.exists():
        return
    config = read_json(file)
    for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "target_parameters"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    write_json(file, config)


@contextmanager
def without_card(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Within a context, saving an adapter adds no `README.md`: PEFT's is a form that nobody filled in."""
    card = Path(folder) / "README.md"
    written = card.exists()
    yield
    if not written:
        card.unlink(missing_ok=True)


def can_merge(model: Any, adapter: str) -> bool:
    """Whether merging is exact: plain linear layers of their own, in float32 (shorter formats would round again)."""
    layers = _layers(model, adapter)
    owners = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    return bool(layers) and all(
        type(layer) is Linear
        and type(layer.get_base_layer()) is nn.Linear
        and layer.get_base_layer().weight.dtype == torch.float32
        and owners[id(layer.get_base_layer().weight)] == 1  # a tied head's weight also embeds the tokens
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
