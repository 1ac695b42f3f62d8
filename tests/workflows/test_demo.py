"""The demo on a small town: its tables hold the numbers of its runs."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import wasserstein_distance

from pluralign import read
from pluralign.demo import answers, tables
from pluralign.demo import run as demo_module
from pluralign.demo.comparison import WinRates, said_metrics
from pluralign.demo.from_scratch import make_causal_model
from pluralign.demo.run import RUNS, demo
from pluralign.demo.town import candidates, chosen_shares, log_choices, true_shares
from pluralign.judgments.population import PROMPTS, Town, simulate
from pluralign.judgments.votes import read_votes, votes_of
from pluralign.policies.loading import load_policy
from pluralign.policies.policy import Sample
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import load_reward_model

PLACES = ("market", "school")
LABELS = "12345"


@pytest.mark.slow
def test_the_demo_reports_what_its_runs_hold(tmp_path, monkeypatch, capfd):
    def shorter(*given):
        configs = full(*given)
        configs["rlhf"]["max_steps"] = 3
        return configs

    full = demo_module.configs
    monkeypatch.setattr(demo_module, "configs", shorter)
    told = demo(tmp_path, seed=1, annotators=20, judgments_per_annotator=6)
    said = "".join(capfd.readouterr()).splitlines()
    assert [line.split(" (")[0] for line in said[:-1]] == [f"{n} of 11: {name}" for n, name in enumerate(RUNS, 1)]
    assert len(said) + len(told.answers) + len(told.files) < 60
    text = "\n".join(told.tables)
    assert (tmp_path / "tables.txt").read_text() == text
    the_answers_are_those_of_the_page_and_the_tables(
        told.answers, text, html.unescape((tmp_path / "report.html").read_text())
    )
    runs = ("reward", "crowd", "policy", "types")
    metrics = {name: json.loads((tmp_path / name / "metrics.json").read_text()) for name in runs}
    found_types, rest = text.split("How well calibrated is the reward model?")
    calibrated, rest = rest.split("How well are the crowd's labels predicted?")
    crowd, rest = rest.split("How well do one reward model")
    the_crowd_section_is_correct(tmp_path, crowd, metrics["crowd"])
    rest, said = rest.split("What do policies say?")
    what_is_said_is_correct(tmp_path, said)
    served, rest = rest.split("Whose preferences does each policy reproduce?")
    if metrics["types"]["types"] == 1:
        chosen, _ = rest.split("There is a single annotator type, so one policy serves everybody.")
    else:
        chosen, rest = rest.split("Which one policy serves all types?")
        the_policies_for_all_are_correct(tmp_path, *rest.split("Does it?"))
    the_histograms_are_correct(tmp_path, chosen)
    story = json.loads((tmp_path / "audit" / "audit.json").read_text())
    for group in story["groups"]:
        line = next(line for line in found_types.splitlines() if line.startswith(group["group"]))
        assert line.split()[1:] == [f"{share:.0%}" for share in group["shares"]]
    assert {"brief", "warm", "thorough"} == {group["group"] for group in story["groups"]}
    after = json.loads((tmp_path / "reward-evaluation" / "metrics.json").read_text())
    assert f"at temperature {after.get('temperature', 1.0):.2f}" in calibrated
    for place in PLACES:
        line = next(line for line in calibrated.splitlines() if line.startswith(place))
        part = f"/source={place}"
        expected = [metrics["reward"][f"{key}{part}"] for key in ("weight", "accuracy", "ece")] + [after[f"ece{part}"]]
        assert [float(cell) for cell in line.split()[1:]] == pytest.approx(expected, abs=0.006)
    assert sum(metrics["reward"][f"weight/source={place}"] for place in PLACES) == pytest.approx(1)
    assert after["accuracy"] == pytest.approx(metrics["reward"]["accuracy"])  # dividing by a number keeps the order
    page = (tmp_path / "report.html").read_text()
    several = ["Which one policy serves all types?"] * (metrics["types"]["types"] > 1)
    for title in (
        "Which annotator types are there?",
        "How well calibrated",
        "Do policies keep the minority?",
        *several,
    ):
        assert title in page
    for name in (name for name in RUNS if name != "together" or several):
        assert f'href="{name}/report.html"' in page
        assert (tmp_path / name / "report.html").exists()
    for kind in ("brief", "warm", "thorough"):
        line = next(line for line in served.splitlines() if line.startswith(kind))
        _, share, *reached, ceiling = line.split()
        for found, name in zip(reached, ("reward", "policy", "types"), strict=True):
            assert found == f"{metrics[name][f'accuracy/group={kind}']:.3f}"
        assert 0.6 < float(ceiling) <= 1.0
        assert share in ("50%", "30%", "20%")
    for file in ("language-model/model.safetensors", "policy/adapter_model.safetensors", "types/mixture.json"):
        assert (tmp_path / file).exists()
    again = demo(tmp_path, seed=1, annotators=20, judgments_per_annotator=6)
    assert again == told, "a second call reuses finished runs"


def the_answers_are_those_of_the_page_and_the_tables(answers, tables, page):
    questions = [line for line in answers if line.endswith("?")]
    assert len(questions) == 6
    assert all(question in page for question in questions[:4])
    whole = "\n".join(answers)
    decimals = re.findall(r"\d\.\d{3}\b", whole.split(questions[1])[1])
    assert len(decimals) >= 3
    assert all(number in tables for number in decimals)
    of_kl = re.search(r"KL-RLHF (\d+)% \(brief\), (\d+)% \(warm\) and (\d+)% \(thorough\)", whole)
    line = next(line for line in tables.split("What do policies say?")[1].splitlines() if line.startswith("KL-RLHF"))
    shares = [float(cell) for cell in re.findall(r"(?<![\[\d.])\d\.\d\d(?= \[)", line)][:3]
    assert [int(share) / 100 for share in of_kl.groups()] == pytest.approx(shares, abs=0.006)


def test_answers_about_several_types_and_a_calibrated_reward():
    worst = {"win_rate": 0.52, "win_rate_low": 0.45, "win_rate_high": 0.58}
    wins = {"best-of": WinRates({}, worst), "own type's": WinRates({}, {"win_rate": 0.68})}
    _, chosen, own = answers.fair_answer(wins, "best-of")
    assert "choose best-of" in chosen
    assert "in 52% [45%, 58%] of cases" in chosen
    assert "in 68%" in own
    reward = {"ece": 0.06, "accuracy": 0.6}
    reward |= {f"{key}/source={place}": value for place in PLACES for key, value in (("ece", 0.1), ("accuracy", 0.7))}
    after = {key: value / 2 for key, value in reward.items()}
    told = answers.calibration_answer(reward, after, 1.8)
    assert "70% (market) and 70% (school)" in told[1]
    assert "0.060 to 0.030 (both), 0.100 to 0.050 (market)" in told[2]
    assert "could not be calibrated" in answers.calibration_answer(reward, reward, 1.0)[-1]


def the_policies_for_all_are_correct(folder, judged, text):
    """The judges' table, and true win rates by plain counting of pairs of responses."""
    metrics = json.loads((folder / "together" / "metrics.json").read_text())
    for policy in ("base", "mixture", "merge", "DPO", "best-of-distilled"):
        line = next(line for line in judged.splitlines() if line.startswith(policy))
        assert float(line.split()[-1]) == pytest.approx(metrics[f"max_regret/{policy}"], abs=0.006)
        assert f"{metrics[f'worst_win_rate/{policy}']:.2f} [" in line
    simulation = simulate(Town(annotators=20, judgments_per_annotator=6, responses=3, overlap=0.2, seed=1))
    rows = pq.read_table(folder / "together" / "answers.parquet").to_pylist()
    for policy in ("DPO", "merge", "best-of", "best-of-distilled"):
        line = next(line for line in text.splitlines() if line.startswith(policy + " "))
        numbers = [float(part.strip("[],")) for part in line.split() if part.strip("[],").replace(".", "").isdigit()]
        assert len(numbers) == 4 * 3  # three groups and the worst-off one
        for group in range(3):
            wins = [
                (own > other) + (own == other) / 2
                for prompt in {row["prompt"] for row in rows}
                for own in values(simulation, rows, prompt, policy, group)
                for other in values(simulation, rows, prompt, "base", group)
            ]
            assert numbers[3 * group] == pytest.approx(np.mean(wins), abs=0.006)
        assert numbers[9] == min(numbers[:9:3])
        assert numbers[10] <= numbers[9] <= numbers[11] + 0.01
    if metrics["winner"] in ("mixture", "merge", "best-of", "best-of-distilled"):
        assert f"The worst-off group prefers {metrics['winner']} with probability" in text


def values(simulation, rows, prompt, policy, group):
    texts = [row["response"] for row in rows if row["prompt"] == prompt and row["by"] == policy]
    return [simulation.utilities(text)[group] for text in texts]


def the_crowd_section_is_correct(folder, text, metrics):
    """Costs by SciPy from the stored shares, and the item that moved most from posteriors made in memory."""
    table = pq.read_table(folder / "crowd" / "crowds.parquet").to_pydict()
    voted, predicted = (np.array([table[f"{kind}_{label}"] for label in LABELS]).T for kind in ("voted", "predicted"))
    parts = [read(folder / f"ratings-{place}.parquet") for place in PLACES]
    state = read_votes(folder / "crowd-votes.parquet")
    kappa = state.settings.strength  # estimated from the votes of the first place
    first = votes_of(parts[0], strength=kappa)
    both = votes_of(read([folder / f"ratings-{place}.parquet" for place in PLACES]), strength=kappa)
    constant = (both.counts / both.counts.sum(1, keepdims=True)).mean(0)
    for name, shares in {"constant": np.tile(constant, (len(voted), 1)), "model (DPRM)": predicted}.items():
        cells = next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name).split()
        apart = abs(shares - voted).sum(1) / 2
        line = [wasserstein_distance(range(5), range(5), one, other) for one, other in zip(shares, voted, strict=True)]
        means = (shares - voted) @ np.arange(1, 6)
        expected = [np.mean(np.array(line) + 0.1 * apart), apart.mean(), abs(means).mean()]
        # Printed with three digits; each is followed by the two ends of its interval.
        assert [float(cell) for cell in cells[::3]] == pytest.approx(expected, abs=6e-4)
    assert metrics["transport_cost"] == pytest.approx(np.mean(np.array(line) + 0.1 * apart), abs=1e-6)
    assert state.counts.sum() == sum(len(part) for part in parts) == both.counts.sum()
    np.testing.assert_allclose(state.parameters[[state.place[key] for key in both.place]], both.parameters, atol=1e-9)
    moved = abs(first.mean[[first.place[key] for key in both.place]] - both.mean).sum(1) / 2
    printed = [line for line in text.splitlines() if " votes  " in line]
    assert [float(line.split()[0]) for line in printed] == pytest.approx(np.sort(moved)[:-4:-1], abs=6e-4)
    assert f"new judgments: {len(parts[1])}" in text


def the_histograms_are_correct(folder, text):
    """By plain sums: what the town chooses, how far a policy is from it, and how much of the minority it keeps."""
    simulation = simulate(Town(annotators=20, judgments_per_annotator=6, responses=3, overlap=0.2, seed=1))
    prompts = sorted(set(read(folder / "test.parquet").column("prompt")))
    texts = candidates(prompts, 12, seed=1)
    flat = [one for group in texts for one in group]
    utilities = np.array([simulation.utilities(text) for text in flat]).reshape(len(prompts), 12, 3)
    choices = np.exp(utilities) / np.exp(utilities).sum(1, keepdims=True)
    people = choices @ np.array([0.5, 0.3, 0.2])
    policies = {"language model": "language-model", "KL-RLHF": "rlhf", "matching (pm-dpo)": "matched"}
    odds = {"population": people}
    items = items_of_texts(prompts, texts)
    for name, run in policies.items():
        log_probs = load_policy(folder / run, max_length=160).log_probs(items).reshape(len(prompts), 12)
        odds[name] = np.exp(log_probs - log_probs.max(1, keepdims=True))
    rewards = load_reward_model(folder / "reward").score_items(items).reshape(len(prompts), 12)
    odds["optimum of KL-RLHF"] = odds["language model"] * np.exp(rewards)
    odds["optimum of matching"] = np.exp(rewards)
    for name, mass in odds.items():
        line = next(line for line in text.splitlines() if line.startswith(name + " "))
        cells = [cell for cell in line.removeprefix(name).split() if not cell.startswith("#")]
        *shares, off, kept = [float(cell.removesuffix("%")) for cell in cells]
        assert sum(shares) == pytest.approx(100, abs=2)
        shares_of_answers = mass / mass.sum(1, keepdims=True)
        assert off == pytest.approx(abs(shares_of_answers - people).sum(1).mean() / 2, abs=0.006)
        held = people.sum() - people.max(1).sum()
        least = np.minimum(people, shares_of_answers)
        minority = least.sum() - np.take_along_axis(least, people.argmax(1)[:, None], 1).sum()
        assert kept == pytest.approx(minority / held, abs=0.006)


def what_is_said_is_correct(folder, text):
    """By drawing the same responses again and counting the type that chooses each most."""
    simulation = simulate(Town(annotators=20, judgments_per_annotator=6, responses=3, overlap=0.2, seed=1))
    prompts = sorted(set(read(folder / "test.parquet").column("prompt")))
    for name, run in {"language model": "language-model", "DPO": "policy", "matching by type": "people"}.items():
        policy = load_policy(folder / run, max_length=160)
        samples = policy.sample(prompts, n=6, max_new_tokens=80, seed=1)
        kinds = log_choices(simulation, [sample.response for group in samples for sample in group]).argmax(axis=0)
        line = next(line for line in text.splitlines() if line.startswith(name + " "))
        numbers = [float(cell) for cell in re.findall(r"\d+\.\d+", line)]
        assert numbers[:9:3] == pytest.approx(np.bincount(kinds, minlength=3) / len(kinds), abs=0.006)
        apart = abs(np.bincount(kinds, minlength=3) / len(kinds) - chosen_shares(simulation)).sum() / 2
        assert numbers[9] == pytest.approx(apart, abs=0.006)


def test_what_is_said_is_counted_against_the_towns_choice(tmp_path):
    """Composed responses of known types: shares, a distance without the noise of drawing, and perplexity by hand."""
    simulation = simulate(Town(annotators=4))
    prompts = list(PROMPTS[:6])
    texts = candidates(prompts, 4, seed=0)
    words = [*prompts, *(text for group in texts for text in group)]
    make_causal_model(words, tmp_path / "base", vocab_size=512, hidden_size=32, layers=1, heads=2, context=256)
    base = load_policy(tmp_path / "base")
    ids = [[base.tokenizer(text)["input_ids"] for text in group] for group in texts]
    samples = [
        [Sample(text, own, -1.0, place != 0) for place, (text, own) in enumerate(zip(group, tokens, strict=True))]
        for group, tokens in zip(texts, ids, strict=True)
    ]
    found = said_metrics(simulation, prompts, samples, base, seed=0)
    kinds = log_choices(simulation, [text for group in texts for text in group]).argmax(axis=0)
    shares = np.array([(kinds == kind).mean() for kind in range(3)])
    wanted = np.array(chosen_shares(simulation))
    assert found["shares"] == pytest.approx(shares)
    assert found["total_variation"] == pytest.approx(abs(shares - wanted).sum() / 2)
    assert found["total_variation_low"] <= found["total_variation"] <= found["total_variation_high"]
    assert all(
        low <= share <= high for low, share, high in zip(found["shares_low"], shares, found["shares_high"], strict=True)
    )
    count = sum(len(own) for group in ids for own in group)
    assert found["mean_length"] == pytest.approx(count / 24)
    assert found["unfinished"] == 0.25
    total = 0.0
    for prompt, group in zip(prompts, ids, strict=True):
        given = base.tokenizer(prompt)["input_ids"]
        for own in group:
            with torch.no_grad():
                logits = base.model(input_ids=torch.tensor([given + own])).logits[0].double().log_softmax(-1)
            total += sum(float(logits[len(given) - 1 + place, token]) for place, token in enumerate(own))
    assert found["perplexity"] == pytest.approx(np.exp(-total / count), rel=1e-4)
    (line,) = [line for line in tables.said(simulation, {"a policy": found}, 6) if line.startswith("a policy")]
    assert f"{shares[0]:.2f} [{found['shares_low'][0]:.2f}, {found['shares_high'][0]:.2f}]" in line
    assert line.split()[-1] == f"{found['perplexity']:.1f}"


def test_true_shares_are_what_a_large_town_says():
    """By the votes of 3000 annotators on each response: a share's standard error is at most 1 / (2 sqrt(3000)) = 0.009."""
    town = Town(annotators=3000, judgments_per_annotator=3, responses=1, overlap=1.0, labels="only", seed=5)
    simulation = simulate(town)
    state = votes_of(simulation.judgments)
    shares = state.counts / state.counts.sum(1, keepdims=True)
    np.testing.assert_allclose(true_shares(simulation, state.response), shares, atol=0.04)
    certain = true_shares(replace(simulation, town=replace(town, noise=0.0)), state.response)
    assert set(np.unique(certain.round(9))) <= {0.0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0}  # whole kinds of people
