"""Entropy and perplexity of a policy that can be enumerated; distinct n-grams by hand."""

import itertools
import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.policies.drawn_texts import distinct, entropy, perplexity


def test_entropy_and_perplexity_of_a_policy_that_can_be_enumerated():
    """Answers of up to three tokens: a coin says whether each goes on; drawn and counted out."""
    draw = np.random.default_rng(0)
    go_on, tokens = 0.4, np.array([0.5, 0.3, 0.2])
    exact, mean_length = 0.0, 0.0
    for length in (1, 2, 3):
        for answer in itertools.product(range(3), repeat=length):
            chance = np.prod(tokens[list(answer)]) * go_on ** (length - 1) * (1 - go_on if length < 3 else 1)
            exact -= chance * math.log(chance)
            mean_length += chance * length
    answers, log_probs = [], []
    for _ in range(4000):
        answer = [draw.choice(3, p=tokens)]
        while len(answer) < 3 and draw.random() < go_on:
            answer.append(draw.choice(3, p=tokens))
        length = len(answer)
        chance = np.prod(tokens[answer]) * go_on ** (length - 1) * (1 - go_on if length < 3 else 1)
        answers.append(answer)
        log_probs.append(math.log(chance))
    lengths = [len(answer) for answer in answers]
    found = entropy(log_probs, lengths, np.arange(4000) // 2)
    error = np.std(log_probs) / math.sqrt(4000)
    assert found["entropy"] == pytest.approx(exact, abs=4 * error)
    assert found["entropy_low"] < exact < found["entropy_high"]
    assert found["entropy_per_token"] == pytest.approx(-sum(log_probs) / sum(lengths))
    assert np.mean(lengths) == pytest.approx(mean_length, abs=0.1)
    # A reference that takes each of three tokens as likely as another, and never ends.
    assert perplexity(-math.log(3) * np.array(lengths), lengths, np.arange(4000))["perplexity"] == pytest.approx(3)


def test_distinct_grams_are_counted_over_all_answers():
    answers = [[1, 2, 3], [1, 2], [9]]
    assert distinct(answers, 1) == pytest.approx(4 / 6)
    assert distinct(answers, 2) == pytest.approx(2 / 3)
    assert distinct(answers, 4) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: entropy([-1.0], [0], [0]), "lengths: found 0, expected 1 or more"),
        (lambda: perplexity([], [], np.zeros(0, int)), "log_probs: 0 responses"),
        (lambda: distinct([[1]], 0), "n: found 0, expected 1 or more"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message):
    with pytest.raises(PluralignError, match=message):
        call()
