"""Prompts and composed responses of a simulated town, and the traits that simple rules detect in a text."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

TRAITS = ("length", "courtesy", "number", "example", "hedging", "joke")
"""What the town's annotators care about: the length in tens of words, and five features that a text has or lacks."""

_RULES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(please|thank|thanks|glad|happy|welcome)\b",
        r"\d",
        r"\bfor (example|instance)\b",
        r"\b(perhaps|maybe|might|not sure)\b",
        r"\b(joke|joking|kidding)\b",
    )
)

_PLACES = {
    "the library": "picture books", "the bakery": "rye bread", "the market": "ripe plums",
    "the bus stop": "the night bus", "the town hall": "passport forms", "the park": "the rose beds",
    "the swimming pool": "the small slide", "the museum": "old maps", "the post office": "large parcels",
    "the pharmacy": "cough drops", "the bike shop": "spare tubes", "the cinema": "silent films",
    "the harbour": "the fishing boats", "the school": "the chess club", "the clinic": "flu shots",
    "the cafe": "mint tea", "the repair shop": "old radios", "the music hall": "brass bands",
    "the animal shelter": "shy cats", "the sports field": "the running track", "the bank": "coin rolls",
    "the garden club": "seed trays", "the flea market": "brass lamps", "the train station": "the first train",
}  # fmt: skip

_QUESTIONS = {
    "When is the best time to visit {place}?": (
        "{Place} is calmest in the morning, right after opening.",
        "Go to {place} late in the day, before dinner.",
        "Choose a weekday for {place}, since weekends are full.",
    ),
    "How do I get to {place}?": (
        "Follow the main street north until you see {place}.",
        "Take the blue bus and get off near {place}.",
        "Walk along the river, then turn left at {place}.",
    ),
    "What should I bring to {place}?": (
        "Bring a bag and some cash when visiting {place}.",
        "A warm coat and good shoes are enough for {place}.",
        "You need nothing special for {place}, only some patience.",
    ),
    "Is {place} a good spot for children?": (
        "Yes, children like {place} and have room to move.",
        "Small children get bored at {place}, older ones less.",
        "It is fine: {place} has a quiet corner for children.",
    ),
    "Who can help me at {place}?": (
        "Ask the person at the front desk of {place}.",
        "Someone with a green badge at {place} will help.",
        "The manager of {place} answers questions after lunch hours.",
    ),
    "Why is {place} closed today?": (
        "The workers at {place} have the day off today.",
        "They are painting the walls of {place} this week.",
        "A water pipe broke near {place} during the night.",
    ),
    "Should the town spend more on {place}?": (
        "Yes, {place} is old and the roof needs work.",
        "No, {place} runs well and roads need money first.",
        "Let the people who use {place} decide about that.",
    ),
    "What is new at {place}?": (
        "There is a new side door at {place} now.",
        "A young couple from the coast now runs {place}.",
        "The lights and benches at {place} have been replaced.",
    ),
}

_COURTESY_FIRST = ("Thank you for asking.", "Glad you asked.", "Happy to help you.", "Welcome, dear neighbour.")
_COURTESY_LAST = (
    "Please enjoy your day.",
    "You are most welcome.",
    "Thanks for your interest.",
    "Please ask again.",
)
_HEDGES = ("Perhaps I am wrong.", "This might have changed.", "Maybe ask around first.", "I am not sure.")
_NUMBERS = ("It takes {n} minutes.", "It costs {n} euros.", "Call room {n} first.", "Allow {n} minutes for it.")
_EXAMPLES = ("For example, {thing}.", "For instance, {thing}.", "Say, {thing}, for example.")
_JOKES = ("Wear a crown, just kidding.", "The mayor naps there, joking.", "Ducks go free, just kidding.")
_DETAILS = (
    "The staff know everyone here.", "Most neighbours do the same.", "You can walk there easily.",
    "The main square is close.", "Many families know that too.", "The side street is quieter.",
)  # fmt: skip

PROMPTS = tuple(question.format(place=place) for question in _QUESTIONS for place in _PLACES)
"""All prompts of the town."""

_SUBJECT = {question.format(place=place): (question, place) for question in _QUESTIONS for place in _PLACES}


def traits(text: str) -> np.ndarray:
    """The traits of a text, in the order of `TRAITS`.

    The first is the number of words divided by ten; the others are 1 if the text contains a courtesy word, a
    digit, "for example" or "for instance", a hedging word, or a word that marks a joke, else 0.

    Args:
        text: any text; the rules are made for responses of `compose`.

    Returns:
        float64, `(len(TRAITS),)`.

    Examples:
        >>> traits("Thank you for asking. It takes 5 minutes.").tolist()
        [0.8, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    return np.array([len(text.split()) / 10, *(float(rule.search(text) is not None) for rule in _RULES)])


class ComposedResponse(NamedTuple):
    """A composed response: its text and the traits that were drawn for it, `(len(TRAITS),)`."""

    text: str
    traits: np.ndarray


def compose(prompt: str, rng: np.random.Generator) -> ComposedResponse:
    """Compose a short response (10 to 45 words) to a prompt of the town; coin flips decide its traits.

    Args:
        prompt: one of `PROMPTS`; others raise `KeyError`.
        rng: random generator; every response takes the same number of draws.

    Examples:
        >>> response = compose(PROMPTS[0], np.random.default_rng(0))
        >>> bool((response.traits == traits(response.text)).all())
        True
    """
    question, place = _SUBJECT[prompt]
    draws = rng.random(15)

    def pick(phrases: tuple[str, ...], draw: float) -> str:
        return phrases[int(draw * len(phrases))]

    courtesy, number, example, hedging, joke = (bool(draw < 0.5) for draw in draws[:5])
    sentences = [pick(_QUESTIONS[question], draws[5]).format(place=place, Place=place.capitalize())]
    if hedging:
        sentences.append(pick(_HEDGES, draws[6]))
    if number:
        sentences.append(pick(_NUMBERS, draws[7]).format(n=2 + int(draws[8] * 48)))
    if example:
        sentences.append(pick(_EXAMPLES, draws[9]).format(thing=_PLACES[place]))
    details = int(draws[10] * 3)
    first = int(draws[11] * len(_DETAILS))
    apart = 1 + int(draws[12] * (len(_DETAILS) - 1))  # the second detail differs from the first
    sentences += [_DETAILS[(first + turn * apart) % len(_DETAILS)] for turn in range(details)]
    if joke:
        sentences.append(pick(_JOKES, draws[13]))
    if courtesy:
        phrase = pick(_COURTESY_FIRST + _COURTESY_LAST, draws[14])
        sentences.insert(0 if phrase in _COURTESY_FIRST else len(sentences), phrase)
    words = sum(len(sentence.split()) for sentence in sentences)
    drawn = np.array([words / 10, courtesy, number, example, hedging, joke], dtype=np.float64)
    return ComposedResponse(" ".join(sentences), drawn)
