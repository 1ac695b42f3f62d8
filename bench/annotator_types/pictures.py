"""The four pictures of docs/types.md: simulated annotators, one dot each, and what the audit says of them.

    python -m bench.annotator_types.pictures

An annotator makes choices between two responses that differ in length and in tone. A dot is an annotator: how often
they chose the shorter one (across) and how often the more formal one (up). The dots are what was seen, not a fit; in
the picture of types, their colour is the type that the fit gives them. The script prints each answer with the gain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.selection import Selection, select_types

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
WIDTH, HEIGHT, LEFT, BELOW = 300, 260, 34, 34
COLOURS = ("#3b7dd8", "#d9822b", "#4a9a5b")

FIRST, SECOND = np.array([2.0, 0.8]), np.array([-1.6, 1.0])
"""Tastes for short and for formal responses, in log-odds for a standard deviation of either."""


def tastes(answer: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Coefficients of each annotator `(annotators, 2)`, and how many choices each makes."""
    if answer == "one taste":
        return np.tile(FIRST / 2, (120, 1)), 40
    if answer == "continuum":
        return np.array([0.2, 0.5]) + rng.normal(size=(120, 2)) * [1.6, 0.5], 40
    people, each = (120, 40) if answer == "types" else (30, 3)
    return np.where(np.arange(people)[:, None] < 0.6 * people, FIRST, SECOND), each


def simulated(answer: str, seed: int) -> Panel:
    """Choices between two responses with standard normal length and tone."""
    rng = np.random.default_rng(seed)
    theta, each = tastes(answer, rng)
    person = np.repeat(np.arange(len(theta)), each)
    shown = np.arange(2 * len(person)).reshape(-1, 2)
    features = rng.normal(size=(shown.size, 2))
    utility = np.einsum("jnp,jp->jn", features[shown], theta[person]) + rng.gumbel(size=shown.shape)
    return Panel(shown, (-utility).argsort(1).argsort(1) + 1, person, features)


def places(panel: Panel) -> np.ndarray:
    """How often each annotator chose the response with more of each feature, `(annotators, 2)`."""
    features = np.asarray(panel.features)[panel.response_ids]
    chosen = panel.rank_values == 1
    more = features[chosen] > features[~chosen]
    counts = np.bincount(panel.annotator_ids)
    return np.stack([np.bincount(panel.annotator_ids, weights=column) / counts for column in more.T], axis=1)


def drawing(dots: np.ndarray, kinds: np.ndarray, caption: str) -> str:
    """A square of dots with two named axes, in colours that can be read on light and on dark pages."""
    wide, high = WIDTH - LEFT - 8, HEIGHT - BELOW - 8
    circles = [
        f'<circle cx="{LEFT + x * wide:.1f}" cy="{8 + (1 - y) * high:.1f}" r="3.6" fill="{COLOURS[kind % 3]}" '
        'fill-opacity="0.65"/>'
        for (x, y), kind in zip(dots, kinds, strict=True)
    ]
    words = [
        (LEFT, HEIGHT - 18, "start", "long"), (WIDTH - 8, HEIGHT - 18, "end", "short"),
        (LEFT + wide / 2, HEIGHT - 4, "middle", "chooses the shorter answer"),
    ]  # fmt: skip
    texts = [f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}">{word}</text>' for x, y, anchor, word in words]
    texts += [
        f'<text transform="translate({x},{8 + place * high:.0f}) rotate(-90)" text-anchor="{anchor}">{word}</text>'
        for x, place, anchor, word in ((26, 1, "start", "casual"), (26, 0, "end", "formal"),
                                       (12, 0.5, "middle", "chooses the more formal"))
    ]  # fmt: skip
    frame = f'<rect x="{LEFT}" y="8" width="{wide}" height="{high}" fill="none" stroke="#8a8a8a"/>'
    middle = (f'<path d="M{LEFT + wide / 2:.0f} 8v{high}M{LEFT} {8 + high / 2:.0f}h{wide}" stroke="#8a8a8a" '
              'stroke-dasharray="3 4"/>')  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="sans-serif" font-size="11" fill="#8a8a8a"><title>{caption}</title>\n'
        + "\n".join([frame, middle, *texts, *circles])
        + "\n</svg>\n"
    )


def answer_of(selection: Selection) -> str:
    """How annotators differ, with the gain of the chosen or the next number of types."""
    number = selection.chosen if selection.chosen > 1 else int(selection.types[1])
    gain = selection.gain_of(number)
    return f"{selection.heterogeneity}; {number} types instead of 1: {gain.value:+.3f} +- {gain.error:.3f}"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for seed, answer in enumerate(("one taste", "types", "continuum", "undecided")):
        panel = simulated(answer, seed)
        selection = select_types(panel, range(1, 4), ridge=2 / 3**2)
        print(f"{answer}: {answer_of(selection)}", flush=True)
        # Equal shares would hide each other; the fewer judgments, the fewer shares there are.
        apart = 0.05 * np.sqrt(panel.annotators / panel.judgments)
        dots = places(panel) + np.random.default_rng(seed).normal(scale=apart, size=(panel.annotators, 2))
        caption = f"Simulated annotators: {answer}"
        kinds = np.asarray(selection.model.labels_) if answer == "types" else np.zeros(len(dots), dtype=np.int64)
        svg = drawing(dots.clip(0, 1), kinds, caption)
        (FOLDER / f"{answer.replace(' ', '-')}.svg").write_text(svg)


if __name__ == "__main__":
    main()
