"""Log-probabilities and rewards of pretrained models: prompt trees, flat rows, and transformers alone.

The same texts three ways: as prompt trees, one response per row, and by the model of transformers on each sequence
without padding or masks. For Gemma 3 there is a prompt longer than the sliding window of most of its layers. Rewards
are those of a random head on the model.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from pluralign.scoring.causal_models import load_causal_model
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.reward_models import build_reward_model
from pluralign.scoring.tokens import TokenizedItems

from ..common.options import parsed, parts
from ..common.pretrained import MODELS, pretrained
from ..common.results import Clock, store
from ..reward_models.ties import llm_crowd

PROMPTS, RESPONSES = 2, 3


def texts(longest: int, chat: bool) -> Items:
    """A few prompts with answers of language models; the last prompt repeats others until it has so many words."""
    rows = {}
    for row in llm_crowd().rows():
        rows.setdefault(row["prompt"], dict.fromkeys(row["responses"])).update(dict.fromkeys(row["responses"]))
    prompts = list(rows)[:PROMPTS]
    responses = [[text[:240] for text in list(rows[prompt])[:RESPONSES]] for prompt in prompts]
    words = " ".join(" ".join(rows[prompt]) for prompt in prompts).split()
    prompts[-1] = " ".join(words[:longest])
    if not chat:
        return items_of_texts([prompt + "\n" for prompt in prompts], responses)
    return items_of_texts(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        [[[{"role": "assistant", "content": text}] for text in several] for several in responses],
    )


def alone(model: Any, tokens: TokenizedItems) -> np.ndarray:
    """log pi(y|x) by a model of transformers, one sequence at a time."""
    values = []
    for response, item in enumerate(tokens.item):
        ids = torch.tensor([tokens.sequence(response)])
        with torch.no_grad():
            start = len(tokens.prompt_ids[item])
            logits = model(input_ids=ids, logits_to_keep=ids.shape[1] - start + 1).logits[0, :-1].double()
        log_probs = torch.log_softmax(logits, -1).gather(-1, ids[0, start:, None])
        values.append(log_probs.sum().item())
    return np.array(values)


def compared(name: str, longest: int, chat: bool) -> dict[str, Any]:
    """The largest differences, in nats of a whole response, and of rewards relative to their size."""
    clock, folder = Clock(), pretrained(name)
    items = texts(longest, chat)
    policy = load_causal_model(folder, max_length=2048)
    policy.model.eval()
    tokens = policy.tokenize(items)
    layout = policy.layout(tokens)
    tree = replace(layout, attention_tokens=math.inf)  # every item as one tree, however little that pays
    values = {"trees": policy.values(tokens, tree), "flat": policy.values(tokens, "flat")}
    values["alone"] = alone(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokens)
    gaps = {f"{one}_{other}": float(np.abs(values[one] - values[other]).max())
            for one, other in (("trees", "flat"), ("trees", "alone"), ("flat", "alone"))}  # fmt: skip
    embeddings = policy.model.get_input_embeddings().num_embeddings
    del policy
    reward = build_reward_model(folder, max_length=2048)
    reward.model.eval()
    rows = reward.tokenize(items)
    reward_tree = replace(reward.layout(rows), attention_tokens=math.inf)
    flat = reward.values(rows, "flat")
    lengths = tokens.lengths()
    return {
        "model": name, "form": "chat" if chat else "text", "tree": layout.tree and reward_tree.tree,
        "window": layout.window, "longest": int(lengths.max()), "tokens": int(lengths.sum()), **gaps,
        "smallest": float(-np.abs(values["alone"]).max()),
        "rewards": float(np.abs(reward.values(rows, reward_tree) - flat).max() / np.abs(flat).max()),
        "added_rows": reward.model.get_input_embeddings().num_embeddings - embeddings,
        "ends": [reward.tokenizer.convert_ids_to_tokens(ids[-1]) for ids in tokens.response_ids[:1]],
        "pad": reward.tokenizer.pad_token, "seconds": clock(),
    }  # fmt: skip


def main() -> None:
    options = parsed(__doc__, models=parts(MODELS, "Pretrained models."), words=(480, "Of the longest prompt."))
    rows = []
    for name in options.models:
        for chat in (False, True):
            if chat and not (pretrained(name) / "chat_template.jinja").exists():
                continue
            torch.manual_seed(0)
            rows.append(compared(name, options.words, chat))
            print(rows[-1], flush=True)
    store("real_model_scores", {"words": options.words, "prompts": PROMPTS, "responses": RESPONSES, "rows": rows})
