"""The pictures of docs/preference-matching.md, from exact figures: collapse, the runaway of length, flattening.

They are written into `docs/pictures`; no model and no training is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pluralign.choice.preference_matching import Penalty, flattened, matched_log_probs

from ..common.options import parsed
from ..common.results import ROOT
from .lengths import endings, weights, zipf

FOLDER = ROOT / "docs" / "pictures"
COLOURS = ("#8a8f98", "#2f7de1", "#e07b39", "#3aa76d")
"""Readable on a light and on a dark page."""

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 260, 44, 34, 48


def text(x: float, y: float, content: str, anchor: str = "middle", colour: str = COLOURS[0]) -> str:
    """One line of text."""
    style = f'font-family="system-ui, sans-serif" font-size="13" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{content}</text>'


def written(name: str, title: str, parts: Sequence[str]) -> None:
    """Write a picture; `title` is what a screen reader says."""
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{title}</title>'
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.svg").write_text("\n".join([head, *parts, "</svg>"]) + "\n")


def legend(names: Sequence[str], colours: Sequence[str]) -> list[str]:
    """Names with their colours, in one line at the top."""
    parts, x = [], float(LEFT)
    for name, colour in zip(names, colours, strict=True):
        parts.append(f'<rect x="{x:.1f}" y="8" width="12" height="12" fill="{colour}"/>')
        parts.append(text(x + 17, 19, name, "start"))
        x += 34 + 7.2 * len(name)
    return parts


def bars(name: str, title: str, groups: Sequence[str], series: dict[str, Tensor], colours: Sequence[str]) -> None:
    """Probabilities in groups, one bar of each series in every group, with their values."""
    room, height = (WIDTH - LEFT) / len(groups), HEIGHT - TOP - BOTTOM
    most = max(float(values.max()) for values in series.values())
    wide = room * 0.8 / len(series)
    parts = legend(list(series), colours)
    for place, group in enumerate(groups):
        start = LEFT + place * room + room * 0.1
        parts.append(text(start + room * 0.4, HEIGHT - 16, group))
        for number, (values, colour) in enumerate(zip(series.values(), colours, strict=True)):
            value = float(values[place])
            tall, x = max(1.0, value / most * (height - 16)), start + number * wide
            y = HEIGHT - BOTTOM - tall
            parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - 3:.1f}" height="{tall:.1f}" fill="{colour}"/>')
            said = f"{value:.2f}"[1:] if value >= 0.005 else "0"
            parts.append(text(x + wide / 2 - 1, y - 4, said))
    written(name, title, parts)


def curves(name: str, title: str, series: dict[str, Tensor], colours: Sequence[str], labels: tuple[str, str]) -> None:
    """Curves over 1, 2 ... between 0 and 1."""
    count = len(next(iter(series.values())))
    right, bottom = WIDTH - 12, HEIGHT - BOTTOM
    parts = legend(list(series), colours)
    for level in (0.0, 0.5, 1.0):
        y = bottom - level * (bottom - TOP)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{COLOURS[0]}" stroke-width="0.5"/>')
        parts.append(text(LEFT - 6, y + 4, f"{level:g}", "end"))
    for tokens in (1, 16, 32, 48, 64):
        x = LEFT + (tokens - 1) / (count - 1) * (right - LEFT)
        parts.append(text(x, bottom + 16, str(tokens)))
    parts += [text((LEFT + right) / 2, HEIGHT - 8, labels[0]), text(LEFT + 6, TOP - 2, labels[1], "start")]
    for values, colour in zip(series.values(), colours, strict=True):
        points = " ".join(
            f"{LEFT + place / (count - 1) * (right - LEFT):.1f},{bottom - value * (bottom - TOP):.1f}"
            for place, value in enumerate(values.tolist())
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
    written(name, title, parts)


def main() -> None:
    parsed(__doc__)
    rewards, reference = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.9, 0.0999, 0.0001]).log()
    bars(
        "collapse", "Shares of three responses: the reference, what people choose, and the optimum of RLHF",
        ["liked most", "liked by a minority", "liked by a smaller one"],
        {
            "reference": reference.exp(), "people: softmax(r)": rewards.softmax(-1),
            "optimum of RLHF (kl)": matched_log_probs(rewards, reference).exp(),
        },
        COLOURS[:3],
    )  # fmt: skip
    kinds = {
        "reference and flattened": Penalty(alpha=0.03),
        "conditional, alpha .1": Penalty("conditional", 0.1),
        "tempered, .75": Penalty("tempered", reference_weight=0.75),
    }
    ended = {}
    for name, penalty in kinds.items():
        own = weights(zipf(), penalty)
        ended[name] = endings(torch.stack([own[:, 0], own[:, 1:].sum(-1)], -1))[:-1].cumsum(0)
    curves(
        "runaway", "Share of responses that have ended after so many tokens, without any reward", ended,
        (COLOURS[3], COLOURS[2], COLOURS[1]), ("tokens", "share of responses that have ended"),
    )  # fmt: skip
    step = torch.tensor([0.42, 0.22, 0.13, 0.06, 0.05, 0.02, 0.10]).log()
    bars(
        "flattened", "The next token's probabilities under a reference and under the flattened reference, alpha .1",
        ["the", "a", "my", "our", "one", "zebra", "(end)"],
        {"reference": step.exp(), "flattened, alpha .1": flattened(step, 0.1, [6]).exp()}, (COLOURS[0], COLOURS[3]),
    )  # fmt: skip
