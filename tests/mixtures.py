"""Folders of mixtures with random adapters, and what a plain model says of a text, as an oracle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from pluralign.scoring.causal_models import causal_model
from pluralign.scoring.mixtures import Mixture


def write_mixture(base: Path, folder: Path, weights: Mapping[str, float], **settings: Any) -> Path:
    """A mixture's folder: an adapter for each weight, large enough that they differ."""
    for seed, name in enumerate(weights):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(model, config)
        causal_model(adapted, AutoTokenizer.from_pretrained(base)).save(folder / name)
    Mixture(dict(weights), **settings).write(folder)
    return folder


def write_run(
    base: Path,
    folder: Path,
    weights: Mapping[str, float],
    people: Mapping[str | None, list[float]],
    **settings: Any,
) -> Path:
    """A finished run of em-dpo: a mixture, and the posteriors of its training annotators."""
    write_mixture(base, folder, weights, **settings)
    config = {"objective": "em-dpo", "model_name_or_path": str(base), "output_dir": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text("{}")
    shares = list(people.values())
    columns = {
        "annotator": pa.array(list(people), pa.string()),
        "judgments": [1] * len(people),
        "type": [1 + own.index(max(own)) for own in shares],
    }
    columns |= {f"probability_{kind + 1}": [own[kind] for own in shares] for kind in range(len(weights))}
    pq.write_table(pa.table(columns), folder / "responsibilities.parquet")
    return folder


class Plain:
    """log pi(y|x) by a plain forward pass over prompt and response, one at a time."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if adapter is not None:
            model = peft.PeftModel.from_pretrained(model, str(adapter))
        self.model = model.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(base)

    def log_prob(self, prompt: str, response: str) -> float:
        ahead = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = self.tokenizer(prompt + response, add_special_tokens=False)["input_ids"]
        assert ids[: len(ahead)] == ahead, "a text for which tokens do not merge over the boundary"
        return self.of_tokens(ahead, [*ids[len(ahead) :], self.tokenizer.eos_token_id])

    def of_tokens(self, prompt: list[int], response: list[int]) -> float:
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            log_probs = torch.log_softmax(self.model(input_ids=ids).logits[0, :-1].double(), -1)
        return log_probs.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item()
