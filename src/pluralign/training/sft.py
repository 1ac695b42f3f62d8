"""Supervised fine-tuning on the responses of a table of judgments, by TRL's `SFTTrainer`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import datasets
import jinja2
import peft
import transformers
import trl
from trl import get_peft_config

from pluralign.core.errors import PluralignError
from pluralign.core.model_names import check_model_name
from pluralign.judgments.messages import for_template
from pluralign.judgments.table import Judgments
from pluralign.scoring.loading import is_adapter, load_parts, read_chat_template, weight_errors
from pluralign.scoring.tokens import as_parts, check_embedded, reads_parts
from pluralign.training.configs import BAR_HELP, SECOND_ADAPTER, setting, unpin_without_gpu, without_bar
from pluralign.training.objective import Objective, TrainingRun
from pluralign.training.trl_datasets import trl_dataset


@dataclass
class SFTConfig(trl.SFTConfig):
    """Supervised fine-tuning by TRL on the responses of a table of judgments."""

    gradient_checkpointing: bool | None = setting(
        None, "The old name of activation_checkpointing, which is off by default."
    )
    bf16: bool | None = setting(False, "Train in bfloat16 mixed precision.")
    disable_tqdm: bool | None = setting(None, BAR_HELP)
    responses: Literal["best", "all", "draws"] = setting(
        "best",
        "Train on the responses ranked first (best) or on every response (all), each text once; or on every response "
        "as often as it occurs (draws), for responses sampled from a policy.",
    )

    def __post_init__(self) -> None:
        without_bar(self)
        super().__post_init__()
        unpin_without_gpu(self)


def completions(judgments: Judgments, responses: str = "best") -> datasets.Dataset:
    """Rows `prompt` and `completion` for `SFTTrainer` (`text` where no row has a prompt).

    Args:
        judgments: the table.
        responses: `best` keeps the responses ranked first (ties included; if there are only labels, those with the
            best label), `all` keeps every response; each text once. `draws` keeps every response as often as it
            occurs, so that samples of a policy are learned in their shares.

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
    if judgments.form == "messages":
        rows = [{name: for_template(messages) for name, messages in row.items()} for row in rows]
    return datasets.Dataset.from_list(rows, on_mixed_types="use_json")


def _best(row: dict[str, Any], judgments: Judgments) -> list[Any]:
    if row["ranks"] is not None:
        return [text for text, rank in zip(row["responses"], row["ranks"], strict=True) if rank == 1]
    scale = judgments.label_scale
    if scale is None:
        raise PluralignError("the table has labels but no label scale: read it with label_scale=...")
    best = max(scale.rewards)
    pairs = zip(row["responses"], row["labels"], strict=True)
    return [text for text, label in pairs if label is not None and scale.reward(label) == best]


def _in_parts(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of chats in a row, their contents as lists of parts."""
    chats = {name: row[name] for name in ("messages", "prompt", "completion") if isinstance(row.get(name), list)}
    return {name: as_parts(messages) for name, messages in chats.items()}


class SFTTrainer(Objective, trl.SFTTrainer):
    """TRL's `SFTTrainer`, whose checkpoints are marked when they are whole; data sets may also be judgments."""

    card_usage: ClassVar[str] = """```python
from transformers import pipeline

pipeline("text-generation", "{folder}")("a prompt")
```"""

    def __init__(
        self,
        model: Any,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **others: Any,
    ) -> None:
        if isinstance(model, str):
            check_model_name(model)
        responses = args.responses if isinstance(args, SFTConfig) else "best"
        train, test = (
            trl_dataset(data, partial(completions, responses=responses)) for data in (train_dataset, eval_dataset)
        )
        super().__init__(model, args, data_collator, train, test, **others)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, *others: Any) -> Any:
        """As TRL does, with the contents of messages as the chat template reads them."""
        if not isinstance(processing_class, transformers.ProcessorMixin) and reads_parts(processing_class):
            dataset = dataset.map(_in_parts)
        return super()._prepare_dataset(dataset, processing_class, *others)

    @classmethod
    def from_run(cls, run: TrainingRun, judgments: Judgments, evaluated: Judgments | None) -> Self:
        """The trainer of a run, on the responses of its judgments."""
        args: Any = run.args
        name = run.model.model_name_or_path
        hub = {"revision": run.model.model_revision, "trust_remote_code": args.trust_remote_code}
        _, tokenizer = load_parts(name, hub)
        if args.chat_template_path is not None:
            tokenizer.chat_template = read_chat_template(args.chat_template_path, hub)
            args.chat_template_path = None  # TRL would read it again and add tokens
        options = {**hub, **run.model_kwargs, **(args.model_init_kwargs or {})}
        args.model_init_kwargs = None
        with weight_errors(name):
            if is_adapter(name):  # it is trained on
                model: Any = peft.AutoPeftModelForCausalLM.from_pretrained(name, is_trainable=True, **options)
            else:
                model = transformers.AutoModelForCausalLM.from_pretrained(name, **options)
        peft_config = get_peft_config(run.model)
        if peft_config is not None and is_adapter(name):
            raise PluralignError(SECOND_ADAPTER)
        try:
            trainer = cls(
                model=model,
                args=args,
                train_dataset=judgments,
                eval_dataset=evaluated,
                processing_class=tokenizer,
                peft_config=peft_config,
            )
        except jinja2.TemplateError as fault:
            raise PluralignError(f"the chat template cannot render the judgments: {fault}") from fault
        for key, data in (("train_files", trainer.train_dataset), ("eval_files", trainer.eval_dataset)):
            if data is not None and "input_ids" in (data.column_names or ()):
                check_embedded(key, data["input_ids"], trainer.model, tokenizer)
        return trainer
