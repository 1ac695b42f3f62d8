"""Votes of simulated people on labels of short texts."""

import numpy as np

from pluralign.judgments import BUILT_IN_SCALES, Judgments

SCALE = BUILT_IN_SCALES["agree-pass-disagree"]
WORDS = ("good", "bad", "cat", "tea", "milk", "rain")


def votes(prompts=3, responses=4, people=(1, 9), seed=0, scale=SCALE, **columns):
    """A row for each vote; what people say of a response leans on how good its words are."""
    draw = np.random.default_rng(seed)
    rows = []
    for prompt in range(prompts):
        for response in range(responses):
            text = " ".join(draw.choice(WORDS, 4)) + f" {prompt}.{response}"
            lean = text.split().count("good") - text.split().count("bad")
            chances = np.exp(lean * np.array(scale.rewards) / 2)
            for label in draw.choice(scale.labels, draw.integers(*people), p=chances / chances.sum()):
                person = int(draw.integers(20))
                row = {
                    "prompt": f"Say something about number {prompt}:",
                    "responses": [text],
                    "labels": [str(label)],
                }
                rows.append(row | {"annotator": f"w{person}", "group": "ab"[person % 2]} | columns)
    return rows


def voted(scale=SCALE, **options) -> Judgments:
    return Judgments.from_rows(votes(scale=scale, **options), scale)
