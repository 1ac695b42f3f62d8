"""Frozen features of texts: TF-IDF with truncated SVD, or the states of an encoder or causal model; cached."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
import torch
from transformers import AutoConfig, AutoModel

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, cache_folder
from pluralign.core.fingerprint import fingerprint, fingerprint_folder
from pluralign.core.progress import track
from pluralign.judgments.messages import plain_text
from pluralign.scoring.forward import MAX_TOKENS_PER_BATCH, seen_by
from pluralign.scoring.items import Items
from pluralign.scoring.loading import (
    DEFAULT_MAX_LENGTH,
    is_encoder,
    load_parts,
    on_device,
    set_pad_token,
    weight_errors,
)
from pluralign.scoring.pooling import pool
from pluralign.scoring.tokens import TokenLimits, model_context, tokenize
from pluralign.scoring.trees import Layout, blocks_of, lay_out

Reads = Literal["response", "prompt+response"]


def text_features(
    items: Items,
    method: str | os.PathLike[str] = "tfidf",
    *,
    dimensions: int = 128,
    reads: Reads = "response",
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Features of every unique response; nothing is trained on the judgments.

    `tfidf`: sublinear TF-IDF over words and word pairs, reduced by truncated SVD (latent semantic analysis).
    A model: the mean state of an encoder, the last state of a causal model. The result is cached under a hash of the
    texts, the method and the model's files.

    Args:
        items: the texts.
        method: `"tfidf"`, or a folder or hub id of an encoder or causal model.
        dimensions: of the truncated SVD (fewer if there are fewer texts); a model's features keep their own.
        reads: the response alone, or the response with its prompt. Messages are read as their contents.
        seed: of the truncated SVD.
        cache: a folder; default: `cache_folder()`.

    Returns:
        `(responses, dimensions)`, float32, finite.

    Raises:
        PluralignError: no such model, or the texts contain no words.

    Examples:
        >>> from pluralign.judgments import Judgments
        >>> from pluralign.scoring.items import items_of
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes, with milk", "No, thank you"], "ranks": [1, 2]}]
        >>> text_features(items_of(Judgments.from_rows(rows)), dimensions=8).shape
        (2, 2)
    """
    name = str(method)
    model_name = fingerprint_folder(name) if name != "tfidf" and Path(name).is_dir() else name
    key = fingerprint("features-1", items.fingerprint(), model_name, dimensions, reads, seed)
    file = Path(cache or cache_folder()) / "features" / f"{key}.safetensors"
    if file.exists():
        return safetensors.numpy.load_file(file)["features"]
    features = _tfidf(items, dimensions, reads, seed) if name == "tfidf" else _states(items, name, reads)
    with atomic_write(file) as out:
        out.write(safetensors.numpy.save({"features": features}))
    return features


def word_vectorizer(**options: Any) -> Any:
    """scikit-learn's vectorizer of words and word pairs by sublinear TF-IDF; options are those of `TfidfVectorizer`."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\w+", **options)


def _tfidf(items: Items, dimensions: int, reads: Reads, seed: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD

    vectorizer = word_vectorizer()
    texts = [plain_text(response) for response in items.responses]
    if reads == "prompt+response":
        texts = [f"{plain_text(items.prompts[item])}\n{text}" for item, text in zip(items.item, texts, strict=True)]
    try:
        counts = vectorizer.fit_transform(texts)
    except ValueError as fault:
        raise PluralignError(f"the texts contain no words ({fault}): use a model's features") from fault
    if min(counts.shape) <= dimensions:  # no reduction is needed: an exact SVD of the small matrix
        left, values, _ = np.linalg.svd(counts.toarray(), full_matrices=False)
        reduced = left * values
    else:
        reduced = TruncatedSVD(dimensions, random_state=seed).fit_transform(counts)
    return np.ascontiguousarray(reduced, dtype=np.float32)


def _states(items: Items, source: str, reads: Reads) -> np.ndarray:
    config, tokenizer = load_parts(source, {"revision": "main", "trust_remote_code": False})
    encoder = is_encoder(config)
    with weight_errors(source):
        model = AutoModel.from_pretrained(source, dtype=torch.float32)
    set_pad_token(model, tokenizer)
    model = on_device(model, None)
    limit = min(model_context(AutoConfig.from_pretrained(source), tokenizer), DEFAULT_MAX_LENGTH)
    prompts, item = [plain_text(prompt) for prompt in items.prompts], items.item
    if reads == "response":
        prompts, item = [""], np.zeros_like(items.item)
    plain = replace(items, prompts=prompts, responses=[plain_text(text) for text in items.responses], item=item)
    tokens = tokenize(plain, tokenizer, TokenLimits(limit, limit), encoder)
    states = np.zeros((len(items.responses), config.hidden_size), dtype=np.float32)
    layout = Layout("pooled", tokenizer.pad_token_id)
    with torch.no_grad():
        for rows in track(blocks_of(tokens, np.arange(len(states)), layout, MAX_TOKENS_PER_BATCH), "Features"):
            block = {name: value.to(model.device) for name, value in lay_out(tokens, rows, layout).items()}
            inputs = seen_by(block, layout)
            hidden = model(input_ids=block["input_ids"], **inputs).last_hidden_state
            pooled = pool(hidden, inputs["attention_mask"], "mean" if encoder else "last")
            states[block["response"].cpu().numpy()] = pooled.float().cpu().numpy()
    return states
