# %% [markdown]
# # Three vendors' preference data: one calibrated reward
#
# You bought preference pairs from three vendors. One is careful, one is hasty, and the annotators of the third like
# long responses whatever they say. You want one reward model whose confidence can be trusted: when it says 80 %, four
# of five annotators should agree.
#
# The pairs are simulated, as rows of `prompt`, `chosen` and `rejected` in the form that TRL reads, so the true
# preferences are known. The model has half a million parameters and starts from nothing. Read the tutorial for the
# steps and for how to read the numbers; a large model on real data will have other numbers.

# %%
import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

import pluralign
from pluralign.demo.from_scratch import make_causal_model
from pluralign.judgments.population import PROMPTS, compose

# %% [markdown]
# ## The vendors' files
#
# All annotators share one taste: they like responses that are friendly and have numbers and examples. A vendor's
# annotators choose by that taste plus a bonus for each word of length, plus noise.

# %%
SIZES = {"careful": 1400, "hasty": 1400, "wordy": 1400}
NOISE = {"careful": 0.5, "hasty": 3.0, "wordy": 1.0}
BONUS = {"careful": 0.0, "hasty": 0.0, "wordy": 0.15}  # of a word
TASTE = np.array([-0.3, 1.5, 1.0, 1.0, -0.5, 0.5])  # length / 10 words, courtesy, number, example, hedging, joke
draw = np.random.default_rng(0)
for vendor, size in SIZES.items():
    with open(f"{vendor}.jsonl", "w") as file:
        for _ in range(size):
            prompt = PROMPTS[draw.integers(len(PROMPTS))]
            pair = [compose(prompt, draw), compose(prompt, draw)]
            length = np.array([len(response.text.split()) for response in pair])
            utility = np.array([response.traits for response in pair]) @ TASTE + BONUS[vendor] * length
            best, worst = np.argsort(-(utility / NOISE[vendor] + draw.gumbel(size=2)))
            row = {"prompt": prompt, "chosen": pair[best].text, "rejected": pair[worst].text}
            file.write(json.dumps(row) + "\n")
print(Path("wordy.jsonl").read_text().splitlines()[0])

# %% [markdown]
# ## Import, and a first look
#
# Each file becomes a table in which the vendor is the `source`. `split` keeps all pairs of a prompt in one part. We
# need three parts: to train on, to calibrate on, and to test on.

# %%
for vendor in SIZES:
    done = pluralign.import_files([f"{vendor}.jsonl"], f"{vendor}.parquet", format="trl", source=vendor)
    print("\n".join(done.summary()))
files = [f"{vendor}.parquet" for vendor in SIZES]
for part in pluralign.split(files, "parts", by="prompt", test=0.3, tuning=0.2, seed=0):
    print(f"{part.name}: {part.judgments} judgments")

# %% [markdown]
# On the command line: `pluralign import wordy.jsonl --format trl --source-name wordy --out wordy.parquet`, then
# `pluralign split careful.parquet hasty.parquet wordy.parquet --by prompt --test 0.3 --tuning 0.2 --out parts`.
#
# A question for every new data set: how often is the longer response chosen?

# %%
rows = pd.DataFrame(pluralign.read("parts/train.parquet").rows())
words = np.array([[len(text.split()) for text in responses] for responses in rows["responses"]])
chosen = np.array([ranks.index(1) for ranks in rows["ranks"]])
longer = words[np.arange(len(rows)), chosen] > words[np.arange(len(rows)), 1 - chosen]
differ = words[:, 0] != words[:, 1]
pd.DataFrame({"longer is chosen": longer[differ]}).groupby(rows["source"][differ]).mean()

# %% [markdown]
# Thanks, numbers and examples take words, so length goes with what these annotators want, but at one vendor far more
# than at the others. That is worth a question to the vendor. A number like this does not prove a bias.
#
# ## One reward for all
#
# MORE computes weights of the sources in every step, from their gradients ([several sources](../more.md)). The control
# has the same batches with equal weights (`weights: uniform`). We choose between the two on the tuning part, so that
# the test part stays untouched.


# %%
def train(name, **keys):
    """Write NAME.yaml and train as it says; `pluralign train NAME.yaml` does the same."""
    keys = {
        "train_files": ["parts/train.parquet"], "eval_files": ["parts/tuning.parquet"], "output_dir": name,
        "report_to": "none", "save_strategy": "no", "lr_scheduler_type": "cosine", "max_length": 160, **keys,
    }  # fmt: skip
    Path(f"{name}.yaml").write_text(yaml.safe_dump(keys, sort_keys=False))
    return pluralign.train(f"{name}.yaml")


texts = [text for row in rows.itertuples() for text in [row.prompt, *row.responses]]
make_causal_model(texts, "untrained", vocab_size=1024, hidden_size=96, layers=3, heads=4, context=160)
train(
    "language-model", objective="sft", model_name_or_path="untrained", responses="all", learning_rate=3e-3,
    num_train_epochs=1, per_device_train_batch_size=32,
)  # fmt: skip
REWARD = {
    "objective": "more", "model_name_or_path": "language-model", "learning_rate": 5e-4, "num_train_epochs": 2,
    "per_device_train_batch_size": 24,
}  # fmt: skip
metrics = {"MORE": train("more", **REWARD), "equal weights": train("equal", weights="uniform", **REWARD)}
pd.DataFrame(
    {
        name: [run["accuracy"], run["log_loss"], run["ece"], *(run[f"weight/source={vendor}"] for vendor in SIZES)]
        for name, run in metrics.items()
    },
    index=["accuracy", "log-loss", "calibration error", *(f"weight of {vendor}" for vendor in SIZES)],
).T.rename_axis("reward model")

# %% [markdown]
# The weights are means over training. MORE moves weight away from sources that agree with others. Here that is the
# careful vendor, whose judgments are the best, so it is no help: nothing tells MORE which source is right. We go on
# with the model that has the lower log-loss.
#
# ## How well is it calibrated, vendor by vendor?
#
# `ece` is the calibration error: the mean distance between the confidence that a pair is ordered as the reward says
# and the share of annotators who agree.


# %%
def by_vendor(metrics):
    """Accuracy and calibration error of each vendor and of all."""
    slices = {vendor: f"/source={vendor}" for vendor in SIZES} | {"all": ""}
    cells = {name: [metrics[f"accuracy{part}"], metrics[f"ece{part}"]] for name, part in slices.items()}
    return pd.DataFrame(cells, index=["accuracy", "calibration error"]).T.rename_axis("vendor")


reward = min(("more", metrics["MORE"]), ("equal", metrics["equal weights"]), key=lambda run: run[1]["log_loss"])[0]
print("reward model:", reward)
before = pluralign.evaluate(reward, "parts/test.parquet", "before")
by_vendor(before)

# %% [markdown]
# ## One temperature for all
#
# `calibrate` fits a temperature on held-out judgments and stores it with the model
# ([recalibration](../recalibration.md)). A temperature above 1 says that the model was over-confident, one below 1
# that it was under-confident.

# %%
fitted = pluralign.calibrate(reward, "parts/tuning.parquet")
print(f"temperature {fitted.temperature:.2f}")
after = pluralign.evaluate(reward, "parts/test.parquet", "after")
by_vendor(after)

# %% [markdown]
# The order of responses is the same, so the accuracy is. One temperature corrects the hasty vendor a little and makes
# the others worse: over all pairs the reward was calibrated well already, because too much confidence in one place
# makes up for too little in another. The line `all` hides what the lines above it show. On the command line:
# `pluralign calibrate equal parts/tuning.parquet`, then `pluralign evaluate equal parts/test.parquet --out after`.
#
# ## A scale for each vendor
#
# One number cannot be right for a careful and for a hasty vendor: the same difference of rewards says more where
# annotators make fewer mistakes. `by="source"` fits a scale for each vendor on top, shrunk towards 1 where there are
# few judgments. The reward of a response stays the same; only what a difference means for a vendor's annotators
# changes.

# %%
from dataclasses import replace

from pluralign.evaluation.calibration.reliability import calibration_error
from pluralign.evaluation.pairs import pairs_of

fitted = pluralign.calibrate(reward, "parts/tuning.parquet", by="source")
scales = fitted.record["by"]["scales"]
scaled = pluralign.evaluate(reward, "parts/test.parquet", "scaled")
gain = [scaled[f"gain_of_source_scales{end}"] for end in ("", "_low", "_high")]
print("log-loss without scales minus with them: {:.4f} [{:.4f}, {:.4f}] nats a judgment".format(*gain))

held_out = pluralign.read("parts/test.parquet")
items = pluralign.items_of(held_out)
rewards = pluralign.load_reward_model(reward).score_items(items)
pairs = pairs_of(rewards[items.response], items.ranks, items.offsets, items.prompt, items.weight)
vendor_of = np.array(held_out.column("source"))[pairs.judgment]
rows = {}
for vendor, scale in scales.items():
    own = replace(pairs, weight=pairs.weight * (vendor_of == vendor))
    rows[vendor] = [
        scale, before[f"ece/source={vendor}"], calibration_error(own),
        calibration_error(replace(own, margin=own.margin * scale)),
    ]  # fmt: skip
columns = ["scale", "error, as trained", "error, one temperature", "error, own scale"]
pd.DataFrame(rows, index=columns).T.rename_axis("vendor")

# %% [markdown]
# The scales say what we planted: the hasty vendor's annotators follow the reward least. The gain in log-loss has an
# interval above zero, and the calibration error of each vendor is smaller than with one temperature. Some 400 pairs of
# a vendor have a calibration error of a few hundredths by chance alone, so do not read the last digits.
#
# The same as a picture: the share of annotators who agree with the reward model, by its confidence. On the dashed line
# the confidence is right; below it the model is over-confident.

# %%
import matplotlib.pyplot as plt

figure, panels = plt.subplots(1, 3, sharey=True, figsize=(8, 2.9), layout="constrained")
for axes, (vendor, scale) in zip(panels, scales.items(), strict=True):
    margin = pairs.margin[vendor_of == vendor]
    for label, values in (("one temperature", margin), ("own scale", margin * scale)):
        confidence = 1 / (1 + np.exp(-np.abs(values)))
        fifth = np.array_split(np.argsort(confidence), 5)
        agree = [np.mean(values[part] > 0) for part in fifth]
        axes.plot([confidence[part].mean() for part in fifth], agree, "o-", label=label)
    axes.plot([0.5, 1], [0.5, 1], "--", color="gray", linewidth=1)
    axes.set(title=vendor, xlabel="confidence", xlim=(0.5, 1), ylim=(0.4, 1))
axes.legend(fontsize="small", loc="lower right")
plt.show()

# %% [markdown]
# ## What to take from it
#
# - Look at each source. A calibration error over all pairs can be small while every source is off.
# - A scale tells you how far to trust a vendor, and which to buy from. It does not change which response has the larger
#   reward: the wordy vendor's bonus for length is in the one reward and stays there. A calibration cannot remove a bias
#   that the judgments have; compare the vendors' answers on the same pairs if you suspect one.
# - MORE was no improvement here. On five real sources its gain over equal weights was not settled either
#   ([results](../../bench/results/reward_models.md)).
