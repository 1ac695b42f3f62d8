"""Whether a server of a run's adapters gives their log-probabilities: `prompt_logprobs` against `load_policy`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.core.errors import PluralignError, one_line
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import read
from pluralign.personas.chat_endpoint import Endpoint, completions_url, key_from_environment
from pluralign.policies.loading import load_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.scoring.items import items_of
from pluralign.scoring.tokens import TokenizedItems


@dataclass(frozen=True)
class ServedModel:
    """How far a served model is from the policy of the same name.

    Args:
        name: of the model on the server.
        responses: how many were compared.
        tokens: of those responses, the prompts left out.
        mean_difference: mean over the responses of |log pi_server(y|x) - log pi(y|x)| per token, in nats.
        largest_difference: the largest of them.
    """

    name: str
    responses: int
    tokens: int
    mean_difference: float
    largest_difference: float


def compare_served(
    run: str | os.PathLike[str],
    files: Files,
    server: str,
    *,
    base: str | None = None,
    model: str | None = None,
    most: int = 32,
    concurrency: int = 4,
    timeout: float = 120.0,
    **options: Any,
) -> list[ServedModel]:
    """Compare log pi(y|x) of each adapter of a run with that of the model of the same name on a server.

    The server is asked for completions of token ids with `prompt_logprobs`, an extension of vLLM, so that neither its
    tokenizer nor its chat template matters. The key in `PLURALIGN_API_KEY` is sent if it is set.

    Args:
        run: what `load_policy` takes; a mixture (a run of `em-dpo`) is compared type by type.
        files: what `read` takes; its unique responses are compared.
        server: the address of the server, or of its `/v1`.
        base: the name of the base on the server, to compare it too; for mixtures.
        model: the name on the server of a policy that is no mixture; default: the folder's name.
        most: the most responses to compare.
        concurrency: requests at once.
        timeout: seconds to wait for an answer.
        options: of `load_policy` (device, dtype ...).

    Returns:
        One entry for each model; the caller decides which difference is too large.

    Raises:
        PluralignError: the run cannot be loaded, or the server does not answer, does not know a model, or gives no
            log-probabilities of prompts.

    Compare the types of a run:

        for found in compare_served("runs/people", "test.parquet", "http://127.0.0.1:8000", dtype=torch.bfloat16):
            print(found.name, found.largest_difference)
    """
    policy = load_policy(run, **options)
    every = policy.tokenize(items_of(read(files), keep_all=True))
    tokens = _first(every, most)
    if isinstance(policy, MixturePolicy):
        ours = dict(zip(policy.mixture.weights, policy.adapter_values(tokens), strict=True))
        if base is not None:
            ours[base] = policy.reference_values(tokens)
    else:
        ours = {model or Path(run).resolve().name: policy.values(tokens)}
    return [_compared(name, values, tokens, server, concurrency, timeout) for name, values in ours.items()]


def _first(tokens: TokenizedItems, most: int) -> TokenizedItems:
    """The first responses alone."""
    return TokenizedItems(tokens.prompt_ids, tokens.response_ids[:most], tokens.item[:most], 0, 0)


def _compared(
    name: str, ours: np.ndarray, tokens: TokenizedItems, server: str, concurrency: int, timeout: float
) -> ServedModel:
    url = completions_url(server).removesuffix("/chat/completions") + "/completions"
    endpoint = Endpoint(url, name, timeout=timeout, key=key_from_environment())
    with ThreadPoolExecutor(concurrency, thread_name_prefix="ask") as pool:
        theirs = list(pool.map(lambda response: _log_prob(endpoint, tokens, response), range(len(ours))))
    lengths = np.array([len(ids) for ids in tokens.response_ids])
    apart = np.abs(np.array(theirs) - ours) / lengths
    return ServedModel(name, len(ours), int(lengths.sum()), float(apart.mean()), float(apart.max()))


def _log_prob(endpoint: Endpoint, tokens: TokenizedItems, response: int) -> float:
    """log pi(y|x) on the server, in nats."""
    ids = tokens.sequence(response)
    body = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
    reply = endpoint.post(body, threading.Event())
    if reply.text is None:
        raise PluralignError(f"{endpoint.url}: model '{endpoint.model}': {reply.detail}")
    try:
        given = json.loads(reply.text)["choices"][0]["prompt_logprobs"]
        return _sum_of(given, ids, len(ids) - len(tokens.response_ids[response]))
    except (LookupError, TypeError, ValueError) as fault:
        raise PluralignError(
            f"{endpoint.url}: model '{endpoint.model}': found {one_line(reply.text)}, expected prompt_logprobs of "
            f"{len(ids)} tokens, as vLLM gives them"
        ) from fault


def _sum_of(given: Sequence[Any], ids: Sequence[int], start: int) -> float:
    """The sum of the log-probabilities from a place on; the very first token has none.

    Examples:
        >>> _sum_of([None, {"7": {"logprob": -1.5}}, {"8": {"logprob": -0.5}, "9": {"logprob": -2.0}}], [5, 7, 9], 1)
        -3.5
    """
    if len(given) != len(ids):
        raise ValueError(f"{len(given)} places for {len(ids)} tokens")
    places = range(max(start, 1), len(ids))
    return float(sum(given[place][str(ids[place])]["logprob"] for place in places))
