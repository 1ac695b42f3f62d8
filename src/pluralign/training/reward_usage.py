"""How a reward model is used, for its model card: with pluralign, and with transformers alone."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from pluralign.scoring.loading import is_encoder

_OURS = """```python
import pluralign

reward_model = pluralign.load_reward_model("{folder}")
reward_model.score("a prompt", ["one response", "another"])
```"""

_ALONE = """
The same reward without pluralign, for texts that need no truncation (if the folder has a `calibration.json` with a
`temperature`, divide by it):

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
{load}
{tokens}
with torch.no_grad():
    reward = model.eval()(torch.tensor([ids])).logits.item()
```"""

_WHOLE = """model = AutoModelForSequenceClassification.from_pretrained("{folder}")"""

_ADAPTER = """base = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels=1)
base.config.pad_token_id = tokenizer.pad_token_id
if tokenizer.pad_token_id >= base.get_input_embeddings().num_embeddings:
    base.resize_token_embeddings(tokenizer.pad_token_id + 1)
model = peft.PeftModel.from_pretrained(base, "{folder}")"""

_TEXT = """ids = tokenizer("a prompt" + "one response").input_ids
ids += [tokenizer.eos_token_id] * (ids[-1] != tokenizer.eos_token_id)"""

_CHAT = """messages = [{"role": "user", "content": "a prompt"}, {"role": "assistant", "content": "one response"}]
ids = tokenizer.apply_chat_template(messages, return_dict=False)"""


def reward_model_usage(model: Any, *, chat: bool) -> str:
    """Markdown with `{folder}` where the model's folder belongs.

    Args:
        model: the trained model, or an adapter on it.
        chat: whether it was trained on messages.
    """
    if is_encoder(model.config):
        return _OURS  # transformers has no head on the mean state
    whole = isinstance(model, PreTrainedModel)
    alone = _ALONE.replace("{load}", _WHOLE if whole else _ADAPTER).replace("{tokens}", _CHAT if chat else _TEXT)
    if not whole:
        base = model.peft_config["default"].base_model_name_or_path
        alone = alone.replace("{base}", str(base)).replace("import torch\n", "import peft\nimport torch\n", 1)
    return f"{_OURS}\n{alone}"
