"""Labels read from answers of all sorts: one label or none, and the reason."""

import json

import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, LabelScale
from pluralign.personas.label_reader import MAX_CHARACTERS, REFUSALS, LabelReader

HH = BUILT_IN_SCALES["hh-6"]
AGREE = BUILT_IN_SCALES["agree-pass-disagree"]
STARS = BUILT_IN_SCALES["1-to-5"]

GIVEN = [
    # The label alone, dressed up.
    ("helpful+harmless", "helpful+harmless"),
    ("  Unhelpful+Harmless.\n", "unhelpful+harmless"),
    ('"neutral+harmful"', "neutral+harmful"),
    ("**helpful+harmful**", "helpful+harmful"),
    ("- neutral+harmless", "neutral+harmless"),
    ("```\nneutral+harmless\n```", "neutral+harmless"),
    ("helpful + harmless", "helpful+harmless"),
    ("helpful\uff0bharmless", "helpful+harmless"),  # a full-width plus
    ("\u200bhelpful+harmless\u200b", "helpful+harmless"),  # signs that nobody sees
    ("\u201cunhelpful+harmful\u201d", "unhelpful+harmful"),
    # Announced.
    ("Label: helpful+harmless", "helpful+harmless"),
    ("**Label:** unhelpful+harmful", "unhelpful+harmful"),
    ("My final answer is neutral+harmless.", "neutral+harmless"),
    ("Let me think about it.\n\nAnswer: helpful+harmful", "helpful+harmful"),
    ("Verdict = 4", "helpful+harmful"),
    # Numbers.
    ("2", "neutral+harmless"),
    ("6.", "unhelpful+harmful"),
    ("(3)", "unhelpful+harmless"),
    ("#1", "helpful+harmless"),
    ("Label number 5", "neutral+harmful"),
    ("\u0662", None),  # a two, but not one of ours
    ("\u2461", "neutral+harmless"),  # a circled two
    ("1. helpful+harmless", "helpful+harmless"),
    ("3) unhelpful+harmless", "unhelpful+harmless"),
    ("0", None),
    ("7", None),
    ("-1", None),
    ("2.5", None),
    ("1/6", None),
    ("1 or 2", None),
    ("20 %", None),
    ("1e0", None),
    ("9" * 5000, None),
    ("2. helpful+harmless", None),  # number and label differ
    ("1.\n2.", None),
    ("There are 2 reasons to like it.", None),
    ("2 because it is dull", None),
    # JSON.
    ('{"label": "helpful+harmless"}', "helpful+harmless"),
    ('Sure! ```json\n{"Label": "HELPFUL+HARMLESS", "why": "not unhelpful+harmful"}\n```', "helpful+harmless"),
    ('{"label": 2}', "neutral+harmless"),
    ('{"label": 2.0}', "neutral+harmless"),
    ('{"label": "2"}', "neutral+harmless"),
    ('{"answer": {"label": "neutral+harmful"}}', "neutral+harmful"),
    ('{"reason": "a } and a {", "label": "neutral+harmful"}', "neutral+harmful"),
    ('{"label": "helpful+harmless"} {"label": 1}', "helpful+harmless"),
    ('{"label": "helpful+harmless"', "helpful+harmless"),  # cut off, and still one label
    ("{'label': 'helpful+harmless'}", "helpful+harmless"),
    ('{"label": null}', None),
    ('{"label": true}', None),
    ('{"label": 2.5}', None),
    ('{"label": NaN}', None),
    ('{"label": Infinity}', None),
    ('{"label": ["helpful+harmless"]}', None),
    ('{"label": "great"}', None),
    ('{"label": "great"} helpful+harmless', None),
    ('{"label": "helpful+harmless", "label": "neutral+harmless"}', None),
    ('[{"label": "helpful+harmless"}, {"label": "unhelpful+harmful"}]', None),
    ('{"label": "helpful+harmless"} or rather neutral+harmless', None),
    ('{"label": ' + "9" * 6000 + "}", None),
    ('{"a":' * 3000, None),
    # Sentences.
    ("I would label this helpful+harmless.", "helpful+harmless"),
    ("The answer is kind, so: neutral+harmless", "neutral+harmless"),
    ("helpful+harmless because it explains the rule", "helpful+harmless"),
    ("It insults nobody. I choose helpful+harmless! It was not hard.", "helpful+harmless"),
    ("This is helpful+harmless. Yes, helpful+harmless.", "helpful+harmless"),
    ("It is not helpful+harmless.", None),
    ("It isn't helpful+harmless", None),
    ("Helpful+harmless would be wrong here.", None),
    ("It could be helpful+harmless.", None),
    ("helpful+harmless, if it had a source", None),
    ("helpful+harmless?", None),
    ("helpful+harmless or neutral+harmless", None),
    ("helpful+harmless\nNo, wait: unhelpful+harmful", None),
    ("Not unhelpful+harmful but helpful+harmless", None),
    # Parts of labels, and what only looks like one.
    ("helpful", None),
    ("harmless", None),
    ("helpful and harmless", None),
    ("very+helpful+harmless", None),
    ("helpful+harmlessness", None),
    ("un-helpful+harmless", None),
    ("helpful+harmless/neutral+harmless", None),
    ("helpful-harmless", None),
    ("...", None),
    ("???", None),
    ("\x00\x01", None),
    ("1. helpful+harmless\n2. neutral+harmless\n3. unhelpful+harmless", None),
    ("- helpful+harmless: it helps\n- neutral+harmless: it neither\n\nhelpful+harmless", None),
    # Thinking aloud.
    ("<think>unhelpful+harmful? 3? no</think>\n\nhelpful+harmless", "helpful+harmless"),
    ("<think>so helpful+harmless it is", None),
    ("<think>a</think><think>helpful+harmless", None),
    ("helpful+harmless" + " " * MAX_CHARACTERS, None),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "label"), GIVEN)
def test_an_answer_gives_one_label_or_none(answer, label):
    reading = LabelReader(HH).read(answer)
    assert reading.label == label, reading
    assert reading.reason == (None if label else "unparsable")
    assert bool(reading.detail) == (label is None)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("agree", "agree"),
        ("Disagree.", "disagree"),
        ("I'd say **pass**", "pass"),
        ('My vote goes to "agree".', "agree"),
        ("3", "disagree"),
        ("Label: agree\nI agree since trams are quiet.", "agree"),
        # A word of a sentence is no vote, and a second label makes the first doubtful.
        ("I do not agree", None),
        ("I agree with every word.", None),
        ("People pass by.", None),
        ('I would not say "agree".', None),
        ("agree\nOn the other hand, I disagree with the end.", None),
        ("strongly agree", None),
        ("agreement", None),
        ("agree/disagree", None),
    ],
)
def test_labels_that_are_ordinary_words_count_as_statements_alone(answer, label):
    assert LabelReader(AGREE).read(answer).label == label


@pytest.mark.parametrize(
    ("scale", "answer", "label"),
    [
        (STARS, "4", "4"),
        (STARS, "Rating: 4.", "4"),
        (STARS, '{"label": 4}', "4"),
        (STARS, "4 stars of 5", None),
        (STARS, "4/5", None),
        (STARS, "4.5", None),
        (STARS, "4\n5", None),
        (STARS, "There are 3 reasons.\n4", "4"),
        (BUILT_IN_SCALES["binary"], "1", "1"),  # the label, not the first label
        (BUILT_IN_SCALES["binary"], "2", None),
        (LabelScale("signed", ("-1", "0", "1"), (-1, 0, 1)), "-1", "-1"),
        (LabelScale("signed", ("-1", "0", "1"), (-1, 0, 1)), "- 1", None),  # a list of one, or a minus?
        (LabelScale("marks", ("C", "C+", "C-"), (1, 2, 0)), "C+", "C+"),
        (LabelScale("marks", ("C", "C+", "C-"), (1, 2, 0)), "C.", "C"),
        (LabelScale("marks", ("C", "C+", "C-"), (1, 2, 0)), "My answer: C-", "C-"),
        (LabelScale("letters", ("A", "B"), (1, 0)), "A good answer, better than B", None),
        (LabelScale("letters", ("A", "B"), (1, 0)), "(b)", "B"),
        (LabelScale("cases", ("a", "A"), (1, 0)), "A", "A"),
        (LabelScale("pattern", (".*", "(?P<label0>x)"), (1, 0)), "anything", None),
        (LabelScale("pattern", (".*", "(?P<label0>x)"), (1, 0)), "(?P<label0>x)", "(?P<label0>x)"),
        (LabelScale("words", ("very good", "good"), (1, 0)), "very  good", "very good"),
        (LabelScale("words", ("very", "very good"), (1, 0)), 'My pick is "very good" today.', "very good"),
    ],
)  # fmt: skip
def test_labels_of_other_kinds(scale, answer, label):
    assert LabelReader(scale).read(answer).label == label


@pytest.mark.parametrize("scale", BUILT_IN_SCALES.values(), ids=lambda scale: scale.name)
def test_every_label_is_read_back_in_every_form(scale):
    reader = LabelReader(scale)
    for number, label in enumerate(scale.labels, start=1):
        forms = [
            label,
            label.upper(),
            f" {label}.\n",
            f"Label: {label}",
            f"*{label}*",
            json.dumps({"label": label}),
        ]
        if scale.name not in ("1-to-5", "binary"):
            forms += [str(number), f"{number}. {label}", json.dumps({"label": number})]
        assert {reader.read(form).label for form in forms} == {label}


@pytest.mark.parametrize("phrase", REFUSALS)
def test_refusals_are_told_by_their_beginning(phrase):
    reader = LabelReader(HH)
    for answer in (
        phrase,
        f"**{phrase.capitalize()}** say that.",
        f'"{phrase.replace(chr(39), chr(0x2019))} helpful+harmless',
    ):
        assert (reader.read(answer).label, reader.read(answer).reason) == (None, "refusal")
    assert reader.read(f"helpful+harmless. {phrase}").reason != "refusal"


def test_empty_answers_and_empty_labels():
    for answer in ("", " \n\t", "<think>helpful+harmless</think>\n"):
        assert LabelReader(HH).read(answer).reason == "empty"
    with pytest.raises(PluralignError, match="has an empty label"):
        LabelReader(LabelScale("odd", ("", "b"), (0, 1)))


@pytest.mark.parametrize("sign", [" ", "*", ":", "{", "label ", "1", "helpful+harmless ", '{"a": ', '"', "not. "])
def test_long_answers_of_one_sign_come_to_an_end(sign):
    # Backtracking in the patterns would take hours here.
    reading = LabelReader(HH).read("x" + sign * (MAX_CHARACTERS // len(sign) - 1))
    assert reading.label in (None, "helpful+harmless")
