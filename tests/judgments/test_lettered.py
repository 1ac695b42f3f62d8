"""Letters of listed options: the same rankings, and no letter that stands for better responses."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.judgments.lettered import lettered


def test_letters_rank_the_options_they_stand_for(town_rows):
    given = Judgments.from_rows(town_rows)
    for before, after in zip(given.rows(), lettered(given).rows(), strict=True):
        lines = after["prompt"].split("\n")[-len(before["responses"]) - 1 : -1]
        option = {f" {line[0]}": line[3:] for line in lines}
        ranked = dict(zip(before["responses"], before["ranks"], strict=True))
        assert {option[letter] for letter in after["responses"]} == set(before["responses"])
        assert [ranked[option[letter]] for letter in after["responses"]] == after["ranks"]
        assert {key: after[key] for key in ("annotator", "weight")} == {
            key: before[key] for key in ("annotator", "weight")
        }
        assert after["prompt"].startswith(before["prompt"].rstrip("\n"))


def test_the_best_option_has_every_letter_alike():
    rows = [{"prompt": "Tea?", "responses": ["Yes", "No", "Later"], "ranks": [1, 2, 3]}] * 3000
    best = [row["responses"][row["ranks"].index(1)] for row in lettered(Judgments.from_rows(rows)).rows()]
    shares = np.array([best.count(f" {letter}") for letter in "ABC"]) / 3000
    assert np.abs(shares - 1 / 3).max() < 0.04


def test_messages_and_too_many_options():
    chat = [
        {
            "prompt": [{"role": "user", "content": "Tea?"}],
            "responses": [[{"role": "assistant", "content": text}] for text in ("Yes", "No")],
            "ranks": [1, 2],
        }
    ]
    (row,) = lettered(Judgments.from_rows(chat)).rows()
    assert row["prompt"][0]["content"].split("\n")[0] == "Tea?"
    assert [one[0]["content"] for one in row["responses"]] == ["A", "B"]
    many = [{"prompt": "Tea?", "responses": [f"r{n}" for n in range(27)], "ranks": [*range(1, 28)]}]
    with pytest.raises(PluralignError, match="row 1: shows 27 responses, and there are 26 letters"):
        lettered(Judgments.from_rows(many))
