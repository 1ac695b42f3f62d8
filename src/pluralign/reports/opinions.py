"""The part of an audit's page that shows what types and groups say: a bar for each of them under each response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pluralign.reports.page import Answer, Block, Heading, Note, Opinions, Passage, Section, Side, Votes
from pluralign.reports.texts import clip, number, plural

FEW = 5.0
"""A share of fewer judgments than this is marked."""

CHOICES = ["preferred", "not preferred"]
"""The answers of rankings and pairs."""

_MOST_DIVIDING, _MOST_AGREED, _MOST_RESPONSES = 12, 6, 200


@dataclass(frozen=True)
class View:
    """What a type or group says about a response.

    `shares` follow `Views.answers`; they are empty without a judgment. `judgments` counts the judgments behind them,
    each weighted by its reliability and by the probability that its annotator belongs to the type.
    """

    shares: list[float]
    judgments: float


@dataclass(frozen=True)
class Viewed:
    """A response as all types or all groups see it.

    `views` follow `Views.viewers`. `divides` is the largest difference between two of them; an answer on the middle of
    a scale counts half. `agreed` is the smallest share with which they give the answer `agreed_on`, the one for which
    it is largest. Both leave out views with fewer than `FEW` judgments, and are 0 if fewer than two of several remain.
    The shares that they compare are pulled towards that of all annotators, as by `FEW` more judgments.
    """

    prompt: str
    response: str
    views: list[View]
    divides: float
    agreed: float
    agreed_on: str


@dataclass(frozen=True)
class Views:
    """What types or groups say about each response, the most dividing response first.

    Answers are the labels above the middle of the scale, on it, and below it; for rankings and pairs they are
    `preferred` and `not preferred` in comparisons with the other responses that were shown.
    """

    answers: list[str]
    viewers: list[str]
    responses: list[Viewed]


@dataclass(frozen=True)
class Example:
    """Two responses to a prompt, and the probability that each type prefers the first.

    Without a second response, it is the probability that the type rates the first above the middle of the scale.
    """

    prompt: str
    first: str
    second: str | None
    probabilities: list[float]


@dataclass(frozen=True)
class Examples:
    """Pairs about which the types differ most, and pairs about which they agree most."""

    types: list[str]
    divide: list[Example]
    agree: list[Example]


def views_section(views: Views) -> Section:
    """What types say about each response: what divides them, what they agree on, and the rest, folded."""
    several = len(views.viewers) > 1
    title = "What divides and what unites" if several else "What annotators say"
    prompts = {viewed.prompt for viewed in views.responses} - {""}
    prompt: list[Block] = [Note(f"Prompt: {prompts.pop()}")] if len(prompts) == 1 else []
    return Section(title, prompt + views_blocks(views, "types" if several else "annotators"), _reading(views))


def views_blocks(views: Views, noun: str) -> list[Block]:
    """The most dividing and the most agreed responses of `types`, `groups` or `annotators`, and the rest, folded."""
    several, coloured, shown = len(views.viewers) > 1, noun == "types", set()
    agreed = sorted(views.responses, key=lambda viewed: -viewed.agreed)
    consensus = [viewed for viewed in agreed if viewed.agreed > 0.5]
    if several:
        # With few responses, half of them at most: what divides little may be what all agree on.
        count = len(views.responses)
        most = min(_MOST_DIVIDING, max(count - _MOST_AGREED, (count + 1) // 2))
        dividing = [viewed for viewed in views.responses if viewed.divides > 0][:most]
    else:
        most = min(_MOST_AGREED, len(agreed) // 2)
        dividing = [viewed for viewed in reversed(agreed) if viewed.agreed > 0][:most]
    consensus = [viewed for viewed in consensus if viewed not in dividing]
    lead = "The largest difference first." if several else "The smallest majority first."
    unanimous = f"The answer that most annotators of all {noun} give." if several else "The largest majority first."
    blocks: list[Block] = []
    for title, words, chosen in (
        (f"What divides the {noun} most", lead, dividing),
        (
            f"What all {noun} agree on" if several else "What most annotators agree on",
            unanimous,
            consensus[:_MOST_AGREED],
        ),
    ):
        if chosen:
            blocks += [Heading(title, words), _list(views, chosen, coloured)]
            shown |= {id(viewed) for viewed in chosen}
    if several and not consensus:
        blocks.append(Note(f"No other response has a majority for the same answer in all {noun}."))
    rest = [viewed for viewed in views.responses if id(viewed) not in shown]
    if rest:
        title = plural(len(rest), "more response" if shown else "response")
        title += f", the first {_MOST_RESPONSES}" if len(rest) > _MOST_RESPONSES else ""
        blocks.append(_list(views, rest[:_MOST_RESPONSES], coloured, title))
    return blocks


def examples_section(examples: Examples) -> Section:
    """Pairs of responses with the choice of each type."""
    several = len(examples.types) > 1
    lead = "Each response was judged too rarely to show shares. These are pairs from the data, with the probability "
    lead += "that an annotator of the type prefers the response, as the fitted types predict it."
    blocks: list[Block] = []
    for title, pairs in (
        ("Where the types choose differently", examples.divide),
        ("Where all types choose alike" if several else "The clearest preferences", examples.agree),
    ):
        if pairs:
            blocks += [Heading(title), Opinions([_example(pair, examples.types) for pair in pairs])]
    return Section("How the types choose" if several else "How annotators choose", blocks, lead)


def _reading(views: Views) -> str:
    """How to read the bars."""
    if _choices(views):
        lead = "How often each response was preferred to the others shown with it. Half is the mean of all responses."
    else:
        lead = f"How often each response was labelled: {', '.join(clip(answer, 40) for answer in views.answers)}."
    if len(views.viewers) > 1:
        lead += " An annotator counts for each type with the probability of belonging to it."
    return f"{lead} Shares of fewer than {number(FEW)} judgments are marked with “few”."


def _choices(views: Views) -> bool:
    return views.answers == CHOICES


def _whole(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f}\xa0%"


def _list(views: Views, chosen: Sequence[Viewed], coloured: bool, folded: str = "") -> Opinions:
    """Responses under their prompts; each prompt stands once, in the order of its first response."""
    by_prompt: dict[str, list[Viewed]] = {}
    prompts = {viewed.prompt for viewed in views.responses}
    for viewed in chosen:
        by_prompt.setdefault(viewed.prompt, []).append(viewed)
    items = []
    for prompt, responses in by_prompt.items():
        sides = [Side(viewed.response, _votes(views, viewed, coloured)) for viewed in responses]
        items.append(Passage(prompt if len(prompts) > 1 else "", sides))
    tones = _tones(len(views.answers))
    legend = [] if _choices(views) else list(zip(tones, views.answers, strict=True))
    return Opinions(items, legend, folded)


def _tones(answers: int) -> list[str]:
    return ["yes", "middle", "no"] if answers == 3 else ["yes", "no"]


def _votes(views: Views, viewed: Viewed, coloured: bool) -> list[Votes]:
    """A bar per type or group."""
    tones = _tones(len(views.answers))
    rows = []
    for place, (name, view) in enumerate(zip(views.viewers, viewed.views, strict=True), 1):
        series = place if coloured else 0
        few = view.judgments < FEW
        counted = number(round(view.judgments) if view.judgments >= 1 else round(view.judgments, 1))
        behind = f"{'few: ' if few else ''}{counted} judgments"
        if not view.shares:
            rows.append(Votes(name, series, [], "no judgments", few=True))
            continue
        answers = [
            Answer(tone, answer, share)
            for tone, answer, share in zip(tones, views.answers, view.shares, strict=True)
            if tone != "no" or not _choices(views)
        ]
        said = ", ".join(f"{_whole(answer.share)} {clip(answer.name, 30)}" for answer in answers)
        rows.append(Votes(name, series, answers, f"{said} · {behind}", few))
    return rows


def _example(pair: Example, types: Sequence[str]) -> Passage:
    def side(response: str, chosen: Sequence[float]) -> Side:
        rows = [
            Votes(name, series, [Answer("yes", "", share)], _whole(share))
            for series, (name, share) in enumerate(zip(types, chosen, strict=True), 1)
        ]
        return Side(response, rows)

    sides = [side(pair.first, pair.probabilities)]
    if pair.second is not None:
        sides.append(side(pair.second, [1 - share for share in pair.probabilities]))
    return Passage(pair.prompt, sides, beside=True)
