"""Log-probabilities that a penalty charges under a frozen reference model: computed once and cached on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import peft
import safetensors.numpy
import torch

from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, cache_folder
from pluralign.core.fingerprint import fingerprint
from pluralign.scoring.causal_models import CausalModel
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.tokens import TokenizedItems

PENALTY = "penalty"
"""The key of the penalty in a tuned policy's settings and in a mixture's file."""

ANSWERS = "answers"
"""The key of a tuned policy's settings that is `letters` if it responds with letters of listed options."""

_NOT_CONTENT = ("_name_or_path", "transformers_version", "architectures", "dtype", SETTINGS)


def fingerprint_weights(model: Any) -> str:
    """Hash of a model's config and weights as they are in memory, active adapters included."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_CONTENT}
    if isinstance(model, peft.PeftModel):
        config |= {"adapters": {name: adapter.to_dict() for name, adapter in model.peft_config.items()}}
        config |= {"active": model.active_adapters}
    digest = hashlib.sha256(fingerprint(type(model).__name__, json.loads(json.dumps(config, default=_plain))).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _plain(value: Any) -> Any:
    # PEFT keeps names of modules in sets, whose order differs between processes.
    return sorted(value) if isinstance(value, set) else str(value)


def stored_penalty(settings: Mapping[str, Any], place: str) -> Penalty:
    """The penalty that a policy was tuned with; `kl`, that of DPO, if none is stored.

    Raises:
        PluralignError: the settings, whose `place` it names, hold something else under the key.

    Examples:
        >>> stored_penalty({"beta": 0.1}, "runs/policy").mode
        'kl'
    """
    stored = settings.get(PENALTY, {"mode": "kl"})
    try:
        return Penalty(**stored)
    except (PluralignError, TypeError) as fault:  # other keys, or not a mapping
        expected = f"expected mode, alpha, gate and reference_weight ({fault})"
        raise PluralignError(f"{place}: penalty: found {stored!r}, {expected}: train it again") from fault


def log_probs_file(
    model_name: str, tokens: TokenizedItems, dtype: str, penalty: Penalty, ends: Sequence[int] = ()
) -> Path:
    """The cache file of the log-probabilities that a penalty charges, for a model's fingerprint and a precision.

    `ends` are the ids of end tokens, which `flattened` keeps apart.
    """
    charged = () if penalty.charges_all else (*astuple(penalty), *ends)
    key = fingerprint("log-probs-1", model_name, tokens.fingerprint(), dtype, *charged)
    return cache_folder() / "reference-log-probs" / f"{key}.safetensors"


def kept_log_probs(
    file: Path, compute: Callable[[], np.ndarray], everywhere: Callable[[bool], bool] = bool, writes: bool = True
) -> np.ndarray:
    """Log-probabilities `(responses,)`, float64, in nats: read from a file, or computed and written to it.

    Args:
        file: from `log_probs_file`.
        compute: computes them; all processes take part.
        everywhere: reduces "this process has the file" to "every process has the file".
        writes: whether this process writes the file.
    """
    if everywhere(file.exists()):
        return safetensors.numpy.load_file(file)["log_probs"]
    log_probs = np.ascontiguousarray(compute(), dtype=np.float64)
    if writes:
        with atomic_write(file) as out:
            out.write(safetensors.numpy.save({"log_probs": log_probs}))
    return log_probs


def reference_charges(reference: CausalModel, tokens: TokenizedItems, penalty: Penalty) -> np.ndarray:
    """What a penalty charges, in nats, cached: `(responses,)`, float64; `tokens` are the texts as the policy reads."""
    if penalty.charges_none:
        return reference.charges(tokens, penalty)
    precision = f"{next(reference.model.parameters()).dtype} no"
    file = log_probs_file(fingerprint_weights(reference.model), tokens, precision, penalty, reference.ends)
    return kept_log_probs(file, lambda: reference.charges(tokens, penalty))
