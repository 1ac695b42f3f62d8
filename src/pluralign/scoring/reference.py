"""Log-probabilities under a frozen reference: computed once per model and texts, and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from pluralign.core.files import atomic_write, cache_folder
from pluralign.core.fingerprint import fingerprint
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.tokens import TokenizedItems

_NOT_CONTENT = ("_name_or_path", "transformers_version", "architectures", "dtype", SETTINGS)


def fingerprint_weights(model: Any) -> str:
    """A name of a model's config and weights as they are in memory, adapters that are on included."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_CONTENT}
    digest = hashlib.sha256(fingerprint(type(model).__name__, json.loads(json.dumps(config, default=str))).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def log_probs_file(
    model_name: str, tokens: TokenizedItems, dtype: str, cache: str | os.PathLike[str] | None = None
) -> Path:
    """Where the log-probabilities of some texts under a model are kept.

    Args:
        model_name: the fingerprint of the model.
        tokens: the texts.
        dtype: in which the model computes.
        cache: the folder of the cache; `None` is `cache_folder()`.
    """
    key = fingerprint("log-probs-1", model_name, tokens.fingerprint(), dtype)
    return Path(cache or cache_folder()) / "reference-log-probs" / f"{key}.safetensors"


def read_log_probs(file: Path) -> np.ndarray:
    """What `write_log_probs` wrote: `(responses,)`, float64, in nats."""
    return safetensors.numpy.load_file(file)["log_probs"]


def write_log_probs(file: Path, log_probs: np.ndarray) -> None:
    """Keep log-probabilities `(responses,)`."""
    with atomic_write(file) as out:
        out.write(safetensors.numpy.save({"log_probs": np.ascontiguousarray(log_probs, dtype=np.float64)}))
