# %% [markdown]
# # Do my annotators fall into types, and can one policy be fair?
#
# You have rankings of model responses, and you know which annotator gave which ranking. Before you train one policy
# on all of them, it is worth asking whether the annotators want the same thing. This tutorial audits the judgments,
# tunes a policy for each annotator type, combines these policies into one, and looks at what the type that is served
# worst gets from it.
#
# The annotators are simulated, so at the end we can compare everything with the truth. The language model has half a
# million parameters and learns to write in half a minute: it shows how the pieces fit together, and nothing about
# large models. The whole script takes a few minutes on two CPU cores.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

import pluralign
from pluralign.demo.from_scratch import make_causal_model

# %% [markdown]
# ## The judgments
#
# Sixty annotators rank three responses to an everyday question, sixteen times each. Half of them like short and exact
# responses, three in ten like friendly ones, and two in ten like complete ones
# ([how the town works](../population.md)). `group` says who is who. pluralign never uses it to find types; we use it at
# the end, as the truth.

# %%
town = pluralign.simulate(pluralign.Town(annotators=60, judgments_per_annotator=16, responses=3, seed=0))
town.judgments.write("judgments.parquet")
pluralign.split("judgments.parquet", "parts", by="prompt", test=0.25, seed=0)
judgments, held_out = pluralign.read("parts/train.parquet"), pluralign.read("parts/test.parquet")
print(len(judgments), "judgments to learn from,", len(held_out), "held out, on other prompts")
row = judgments.row(0)
row["annotator"], row["group"], row["prompt"], row["responses"], row["ranks"]

# %% [markdown]
# On the command line: `pluralign split judgments.parquet --by prompt --test 0.25 --out parts`.
#
# ## Are there types?
#
# The audit needs no language model. It describes responses by their words, fits latent classes, and asks whether
# several types predict the judgments of held-out annotators better than one taste does, and better than tastes that
# differ by degrees ([annotator types](../types.md)).

# %%
audit = pluralign.audit(judgments, "audit", most_types=4, simulations=1)
print(audit.sentence)
print("types:", audit["types"], "| verdict:", audit["identification"], "| shape:", audit["heterogeneity"])
audit.plot()

# %% [markdown]
# On the command line: `pluralign audit parts/train.parquet --out audit --most-types 4 --simulations 1`. The folder
# `audit` also has a page, `report.html`, that shows which responses the types disagree about.
#
# Since the annotators are simulated, we can check whether the types are the groups:

# %%
found = audit.responsibilities.assign(group=lambda frame: frame["annotator"].map(town.types))
pd.crosstab(found["group"], found["type"]).add_prefix("type ")

# %% [markdown]
# ## A language model
#
# Any causal language model will do, by its folder or its hub id. Here we make a tiny one, which reads the responses of
# the training judgments twice. A run is described by a YAML file; `pluralign train language-model.yaml` on the
# command line is the same as the function below.


# %%
def train(name, **keys):
    """Write NAME.yaml and train as it says; returns the run's metrics."""
    keys = {
        "train_files": ["parts/train.parquet"], "eval_files": ["parts/test.parquet"], "output_dir": name,
        "report_to": "none", "save_strategy": "no", "lr_scheduler_type": "cosine", **keys,
    }  # fmt: skip
    Path(f"{name}.yaml").write_text(yaml.safe_dump(keys, sort_keys=False))
    return pluralign.train(f"{name}.yaml")


texts = [text for row in judgments.rows() for text in [row["prompt"], *row["responses"]]]
make_causal_model(texts, "untrained", vocab_size=1024, hidden_size=96, layers=3, heads=4, context=160)
train(
    "language-model", objective="sft", model_name_or_path="untrained", responses="all", learning_rate=3e-3,
    num_train_epochs=2, per_device_train_batch_size=32, max_length=160,
)  # fmt: skip
prompt = held_out.row(0)["prompt"]
print(prompt)
for sample in pluralign.load_policy("language-model").sample([prompt], n=3, max_new_tokens=80, seed=0)[0]:
    print("-", sample.response)

# %% [markdown]
# It has the town's phrases but hardly answers the question, and its sentences break off. That is enough for what
# follows, because these annotators look at the form of a response and not at the question.

# %% [markdown]
# ## One DPO policy for everybody, and a policy for each type
#
# Both are tuned on the same judgments with the same settings. `dpo` reads a ranking as a whole, not as pairs.
# `em-dpo` takes the types that the audit finds and tunes a LoRA adapter for each of them ([EM-DPO](../em-dpo.md)).

# %%
TUNING = {
    "model_name_or_path": "language-model", "beta": 1.0, "learning_rate": 2e-3, "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
}  # fmt: skip
one = train("one-policy", objective="dpo", use_peft=True, lora_target_modules=["all-linear"], **TUNING)
by_type = train("types", objective="em-dpo", most_types=4, **TUNING)
print(by_type["sentence"])
print("\ntypes.yaml:\n" + Path("types.yaml").read_text())

# %% [markdown]
# How often does each policy put the better of two held-out responses first? A half is chance. An annotator is judged by
# the policy of their own type. `true utilities` is the best that can be reached with annotators who decide as noisily
# as these.


# %%
def true_accuracy(group):
    """How often the true utilities of a group order two responses as its annotators did."""
    place = [kind.name for kind in town.town.types].index(group)
    right = []
    for row in held_out.rows():
        if row["group"] == group:
            utility = [town.utilities(text)[place] for text in row["responses"]]
            ranks = row["ranks"]
            right += [utility[a] > utility[b] for a in range(3) for b in range(3) if ranks[a] < ranks[b]]
    return float(np.mean(right))


groups = [kind.name for kind in town.town.types]
pd.DataFrame(
    {
        "one DPO policy": [one[f"accuracy/group={group}"] for group in groups],
        "own type's policy": [by_type[f"accuracy/group={group}"] for group in groups],
        "true utilities": [true_accuracy(group) for group in groups],
    },
    index=pd.Index(groups, name="group"),
)

# %% [markdown]
# The one policy follows the largest group, and for the second it is worse than chance. The types' policies, tuned on
# the same judgments, are far above chance for every group, though below what the noise allows.
#
# ## One policy for all
#
# You may be able to deploy only one policy. `aggregate` builds several from the types' policies and compares them with
# the language model before tuning (`base`), by judges of each type that are fitted to held-out judgments
# ([one policy for all](../aggregation.md)).

# %%
together = pluralign.aggregate(
    "types", "together", policies={"dpo": "one-policy"}, offer=["mixture", "merge", "best-of"],
    candidates=12, trials=4, max_tuning_prompts=24, max_prompts=32, max_new_tokens=80,
)  # fmt: skip
policies = ["base", "mixture", "merge", "best-of", "dpo"]
rates = {
    policy: [
        *(together[f"win_rate/{policy}/type={kind}"] for kind in range(1, together["types"] + 1)),
        together[f"worst_win_rate/{policy}"], together.get(f"worst_win_rate/{policy}_low", float("nan")),
        together.get(f"worst_win_rate/{policy}_high", float("nan")),
    ]
    for policy in policies
}  # fmt: skip
kinds = [f"type {kind}" for kind in range(1, together["types"] + 1)]
print("best by the win rate of the type that is served worst:", together["winner"])
pd.DataFrame(rates, index=[*kinds, "worst-off", "low", "high"]).T.rename_axis("win rate against base")

# %% [markdown]
# `low` and `high` are a 95 % interval, over prompts, of the worst-off type's rate. These rates are by judges that were
# fitted to judgments. Here the true utilities are known, so we can check them: how often does each group prefer a
# policy's response to one of the base?

# %%
answers = pd.read_parquet("together/answers.parquet")
types_of = pd.crosstab(found["group"], found["type"]).idxmax(axis=1)


def true_rate(policy, group):
    """How often a group prefers the policy's responses to the base's to the same prompt, by true utilities."""
    rates = []
    for _, drawn in answers.groupby("prompt"):
        utility = drawn["response"].map(lambda text: town.utilities(text)[groups.index(group)])
        ours, base = (utility[drawn["by"] == name].to_numpy() for name in (policy, "base"))
        rates.append((np.sign(ours[:, None] - base).mean() + 1) / 2)
    return float(np.mean(rates))


rates = {policy: [true_rate(policy, group) for group in groups] for policy in ("merge", "best-of", "dpo")}
rates["own type's policy"] = [true_rate(f"type-{types_of[group]}", group) for group in groups]
truth = pd.DataFrame(rates, index=groups).T.rename_axis("true win rate against base")
truth.assign(worst_off=truth.min(axis=1))

# %% [markdown]
# ## What to take from it
#
# - A policy of their own serves every group much better than anything that all share. If you can route annotators or
#   users to a policy (`pluralign route`), do.
# - Among the policies for all, `best-of` serves the worst-off type best, by the judges and by the true utilities. It
#   costs twelve samples per response. The margin is small: every response has to please people who want opposite
#   things.
# - The mixture serves types in turns, so nobody gains much. One DPO policy leaves the worst-off type where it was.
# - This is one town with 32 prompts, and the judges' interval for the worst-off type begins below a half. In five
#   towns with more prompts it was above a half in all ([results](../../bench/results/aggregation.md)).
