"""A prior of each item: how a language model, asked outright and in no role, divides its reply among the labels.

The idea is that of DPRM (arXiv 2402.09764), whose prior of an item comes from asking a language model; the question and
reading shares from the probabilities of replies are ours.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments, text_columns
from pluralign.personas.questions import DescribedLabel, Persona, VoteTemplate
from pluralign.scoring.items import items_of, items_of_texts

_NOBODY = Persona("nobody", "")


def outright_prior(
    model: str, judgments: Judgments, labels: Sequence[DescribedLabel], options: dict[str, Any]
) -> tuple[pa.Table, int]:
    """The shares of the labels that a model expects for each unique response, and how many responses are left out.

    A share is the probability of the reply that states the label (its number, or the label where labels are numbers
    themselves), divided by those of all labels. A response whose question does not fit into the model is left out.

    Args:
        model: what `load_policy` takes.
        judgments: only their unique responses are used.
        labels: of the scale, as the question shows them.
        options: of `load_policy`.

    Returns:
        a table with `prompt`, `response` and a column for each label, as `pluralign.judgments.votes.priors` reads it.

    Raises:
        PluralignError: no question fits.
    """
    from scipy.special import softmax

    from pluralign.policies.loading import load_policy  # here: an endpoint needs no torch
    from pluralign.scoring.tokens import prompt_tokens

    policy = load_policy(model, **options)
    source = (importlib.resources.files("pluralign.personas") / "templates" / "outright.jinja").read_text("utf-8")
    template = VoteTemplate(source, "the question for a prior", needs=("response",))
    shown = items_of(judgments, keep_all=True)
    prompts = [shown.prompts[place] for place in shown.item.tolist()]
    texts = [template.render(_NOBODY, *pair, labels) for pair in zip(prompts, shown.responses, strict=True)]
    replies = [str(one.number or one.label) for one in labels]
    chat = policy.tokenizer.chat_template is not None
    questions: list[Any] = [[{"role": "user", "content": text}] for text in texts] if chat else texts
    said: list[Any] = [[{"role": "assistant", "content": one}] if chat else f" {one}" for one in replies]
    short = [{"role": "user", "content": "?"}] if chat else "?"
    longest = max(map(len, policy.tokenize(items_of_texts([short], [said])).response_ids))
    lengths = [len(ids) for ids in prompt_tokens(questions, policy.tokenizer, 10**9)]
    kept = [place for place, length in enumerate(lengths) if length + longest <= policy.limits.max_length]
    if not kept:
        raise PluralignError(
            f"prior: no question fits into the {policy.limits.max_length} tokens of {model}: raise --max-length, or "
            "use another model"
        )
    log_probs = policy.log_probs(items_of_texts([questions[place] for place in kept], [said] * len(kept)))
    shares = softmax(log_probs.reshape(len(kept), len(labels)), axis=1)
    columns = text_columns([prompts[place] for place in kept], [shown.responses[place] for place in kept])
    columns |= {one.label: pa.array(shares[:, place]) for place, one in enumerate(labels)}
    return pa.table(columns), len(questions) - len(kept)
