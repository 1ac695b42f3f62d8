"""Trainers of preference matching, offline and online, and what their tests compute by hand."""

import itertools
import math

import numpy as np
import peft
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from pluralign.judgments import Judgments
from pluralign.training.preference_matching.dpo import PMDPOConfig, PMDPOTrainer
from pluralign.training.preference_matching.rlhf import PMRLHFTrainer
from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig

# Offline: DPO and PM-DPO.


def offline_trainer(
    model, judgments, tmp_path, config=PMDPOConfig, trainer=PMDPOTrainer, evaluated=None, lora=False, **values
):
    """A trainer of PM-DPO, or of another method, with settings for short runs."""
    defaults = {
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    torch.manual_seed(0)
    arguments = {name: values.pop(name) for name in ("ref_model", "peft_config") if name in values}
    if lora:
        arguments["peft_config"] = peft.LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear")
    args = config(**{**defaults, **values})
    return trainer(model, args=args, train_dataset=judgments, eval_dataset=evaluated, **arguments)


def between(numbers):
    """The middle of the widest gap in the middle half of some log-probabilities, as a probability.

    Layouts round differently, so a threshold must not coincide with any of the numbers.
    """
    middle = np.sort(numbers)[len(numbers) // 4 : 3 * len(numbers) // 4 + 1]
    place = int(np.diff(middle).argmax())
    assert middle[place + 1] - middle[place] > 1e-3
    return float(np.exp(middle[place : place + 2].mean()))


LETTERS = [*"abcdefghij"]


def letters_model(folder, reference):
    """A model whose log-probabilities of the ten letters after the prompt `p` are given, summing to 1, in a folder."""
    words = ["[PAD]", "[UNK]", "p", *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.model_max_length = 8
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=8, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        state = model.model(torch.tensor([[words.index("p")]])).last_hidden_state[0, -1]
        logits = torch.full((len(words),), -30.0)  # the prompt and special tokens: almost impossible
        logits[3:] = reference.float()
        model.lm_head.weight.copy_(logits.outer(state / state.square().sum()))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def expected_judgments(rewards, shown=2):
    """Every ranking of `shown` responses, weighted by its Plackett-Luce probability under the rewards."""
    rows = []
    for order in itertools.permutations(range(len(rewards)), shown):
        utilities = rewards[list(order)]
        log_p = sum(utilities[place] - np.logaddexp.reduce(utilities[place:]) for place in range(shown))
        texts = [LETTERS[place] for place in order]
        rows.append({"prompt": "p", "responses": texts, "ranks": [*range(1, shown + 1)], "weight": math.exp(log_p)})
    return Judgments.from_rows(rows)


# Online: PM-RLHF.

LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
COMMON = {
    "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "max_steps": 3,
    "learning_rate": 1e-3, "use_cpu": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1,
    "disable_tqdm": True,
}  # fmt: skip
REFERENCE = torch.tensor([0.6, 0.25, 0.1, 0.05])


def prompts(count=16):
    """Prompts of several lengths, so that batches are padded."""
    return Dataset.from_list([{"prompt": f"Say something about number {n}:" + " good" * (n % 3)} for n in range(count)])


def words(prompts, completions, **_):
    """A reward: the number of words in a response."""
    return [float(len(text.split())) for text in completions]


def online_settings(folder, **values):
    """A config of PM-RLHF for short runs."""
    return PMRLHFConfig(str(folder), **COMMON | values)


def tuned(model, folder, reward=words, peft_config=None, tokenizer=None, data=None, **values):
    """A trainer of PM-RLHF after its run."""
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
    args = online_settings(folder, **values)
    trainer = PMRLHFTrainer(model, reward, args, data or prompts(), processing_class=tokenizer, peft_config=peft_config)
    trainer.train()
    return trainer


def logged(trainer, name):
    """The logged values of a name, in order."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def token_model():
    """A model with four tokens, and its tokenizer. After the prompt the tokens' probabilities are `REFERENCE`."""
    size = len(REFERENCE)
    tokenizer = Tokenizer(models.WordLevel({f"w{token}": token for token in range(size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w3", pad_token="w3")
    set_seed(0)
    config = LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=8, tie_word_embeddings=False, eos_token_id=3, pad_token_id=3,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        state = model.model(input_ids=torch.tensor([[0]])).last_hidden_state[0, -1]
        model.lm_head.weight.copy_(REFERENCE.log().outer(state / state.square().sum()))
    return model, fast
