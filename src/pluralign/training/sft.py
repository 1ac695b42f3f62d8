"""Supervised fine-tuning on the responses of a table of judgments, by TRL's `SFTTrainer`."""

from __future__ import annotations

import json
from typing import Any

import datasets
import peft
import trl

from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments
from pluralign.training.checkpoints import CompletionMarker


def completions(judgments: Judgments, responses: str = "best") -> datasets.Dataset:
    """Rows `prompt` and `completion` for `SFTTrainer` (`text` where no row has a prompt).

    Args:
        judgments: the table.
        responses: `best` keeps the responses ranked first (ties included; where there are only labels, those
            with the best label), `all` keeps every response; each text once. `draws` keeps every response as
            often as it stands: a policy's own answers are learned in the shares in which it gave them.

    Raises:
        PluralignError: nothing is left.

    Examples:
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}]
        >>> completions(Judgments.from_rows(rows))[0]
        {'prompt': 'Tea?', 'completion': 'Yes'}
    """
    seen: set[str] = set()
    rows: list[dict[str, Any]] = []
    for row in judgments.rows():
        for response in _best(row, judgments) if responses == "best" else row["responses"]:
            key = json.dumps([row["prompt"], response], ensure_ascii=False)
            if responses == "draws" or key not in seen:
                seen.add(key)
                rows.append({"prompt": row["prompt"], "completion": response})
    if not rows:
        raise PluralignError("no response is left to train on: none is ranked or labelled; try responses: all")
    if not any(row["prompt"] for row in rows):
        name = "text" if judgments.form == "text" else "messages"
        rows = [{name: row["completion"]} for row in rows]
    return datasets.Dataset.from_list(rows)


def _best(row: dict[str, Any], judgments: Judgments) -> list[Any]:
    if row["ranks"] is not None:
        return [text for text, rank in zip(row["responses"], row["ranks"], strict=True) if rank == 1]
    scale = judgments.label_scale
    if scale is None:
        raise PluralignError("the table has labels but no label scale: read it with label_scale=...")
    best = max(scale.rewards)
    pairs = zip(row["responses"], row["labels"], strict=True)
    return [text for text, label in pairs if label is not None and scale.reward(label) == best]


class SFTTrainer(trl.SFTTrainer):
    """TRL's `SFTTrainer`, whose checkpoints are marked when they are whole."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(CompletionMarker())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """An adapter's folder gets the config too, so that it loads with its own tokenizer and chat template."""
        super()._save(output_dir, state_dict)
        if self.args.should_save and isinstance(self.model, peft.PeftModel):
            self.model.config.save_pretrained(output_dir or self.args.output_dir)
