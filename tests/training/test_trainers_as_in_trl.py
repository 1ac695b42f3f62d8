"""Trainers are called as TRL's are."""

import inspect

import pytest
import trl

import pluralign
from pluralign.core.errors import PluralignError

PAIRS = {"prompt": "p", "responses": ["a b", "b"], "ranks": [1, 2], "annotator": "x"}
TRL = {
    "BradleyTerryTrainer": trl.RewardTrainer, "PlackettLuceTrainer": trl.RewardTrainer, "DPRMTrainer": trl.RewardTrainer,
    "MORETrainer": trl.RewardTrainer, "DPOTrainer": trl.DPOTrainer, "PMDPOTrainer": trl.DPOTrainer,
    "EMDPOTrainer": trl.DPOTrainer, "PMRLHFTrainer": trl.RLOOTrainer, "SFTTrainer": trl.SFTTrainer,
}  # fmt: skip


def positions(trainer):
    """Names of the arguments that may be given by position, through inherited `*given`."""
    found = []
    for kind in trainer.__mro__:
        if "__init__" not in vars(kind):
            continue
        own = inspect.signature(vars(kind)["__init__"]).parameters.values()
        names = [one.name for one in own if one.kind is one.POSITIONAL_OR_KEYWORD][1:]
        found += names[len(found) :]
        if not any(one.kind is one.VAR_POSITIONAL for one in own):
            return found
    raise AssertionError


@pytest.mark.parametrize("name", TRL)
def test_arguments_are_in_the_same_order(name):
    own, theirs = positions(getattr(pluralign, name)), positions(TRL[name])
    assert own == theirs[: len(own)]
    assert own[-1] in ("processing_class", "eval_dataset")


@pytest.mark.parametrize("name", ["BradleyTerryTrainer", "PlackettLuceTrainer", "DPOTrainer", "EMDPOTrainer"])
def test_without_a_config_the_defaults_are_trained(name, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = getattr(pluralign, name)(str(tiny_model), train_dataset=[PAIRS] * 2)
    assert trainer.args.output_dir == f"{tiny_model.name}-{name.removesuffix('Trainer')}"
    assert trainer.args.learning_rate == type(trainer.args)("other").learning_rate


def test_what_is_in_the_wrong_place_is_named(tiny_model, tmp_path):
    args = pluralign.DPOConfig(str(tmp_path))
    with pytest.raises(PluralignError, match=r"ref_model: found DPOConfig: give it as args="):
        pluralign.DPOTrainer(str(tiny_model), args, train_dataset=[PAIRS])
    with pytest.raises(PluralignError, match=r"args: found list, expected BradleyTerryConfig; judgments are given as"):
        pluralign.BradleyTerryTrainer(str(tiny_model), [PAIRS])
    with pytest.raises(PluralignError, match="args: found pluralign.DPOConfig, expected pluralign.DPRMConfig"):
        pluralign.DPRMTrainer(str(tiny_model), args)
    with pytest.raises(PluralignError, match="args: found trl.DPOConfig, expected pluralign.DPOConfig, which takes"):
        pluralign.DPOTrainer(str(tiny_model), args=trl.DPOConfig(str(tmp_path), bf16=False), train_dataset=[PAIRS])
    with pytest.raises(PluralignError, match="ref_model: found list: judgments are given as train_dataset="):
        pluralign.DPOTrainer(str(tiny_model), [PAIRS], args)
    with pytest.raises(PluralignError, match="tokenizer: is called processing_class"):
        pluralign.DPOTrainer(str(tiny_model), args=args, train_dataset=[PAIRS], tokenizer=None)
    with pytest.raises(PluralignError, match="data_collator: batches are made from judgments"):
        pluralign.DPOTrainer(str(tiny_model), args=args, data_collator=len, train_dataset=[PAIRS])
