"""Personas: what their files must be, the question they get, who votes, and labels read from nasty answers."""

import json
from collections import Counter
from pathlib import Path

import pytest
from pluralign.personas.answers import MAX_SIGNS, REFUSALS, LabelReader

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, LabelScale
from pluralign.personas.questions import (
    Persona,
    VoteTemplate,
    described_labels,
    read_descriptions,
    read_personas,
    read_template,
    transcript,
    voters_of,
)

HH = BUILT_IN_SCALES["hh-6"]
AGREE = BUILT_IN_SCALES["agree-pass-disagree"]
STARS = BUILT_IN_SCALES["1-to-5"]
EXAMPLES = Path(__file__).parents[2] / "examples" / "personas"
ANN = Persona("Ann", "A nurse.")

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
    ("helpful+harmless" + " " * MAX_SIGNS, None),
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
    reading = LabelReader(HH).read("x" + sign * (MAX_SIGNS // len(sign) - 1))
    assert reading.label in (None, "helpful+harmless")


# Files.


def personas_file(tmp_path, text):
    (tmp_path / "people.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "people.yaml"


def test_personas_are_read_in_order(tmp_path):
    text = "- name: Ann \n  description: A nurse.\n- name: 'no'\n  description: >\n    Two\n    lines.\n"
    assert read_personas(personas_file(tmp_path, text)) == [ANN, Persona("no", "Two lines.")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("name: Ann", "expected a list of personas"),
        ("[]", "expected a list of personas"),
        ("- Ann", "line 1, key '.1': found 'Ann', expected the keys name and description"),
        ("- {name: Ann}", "'description' is missing"),
        ("- {name: Ann, description: ' '}", "found ' ', expected some text"),
        ("- {name: 5, description: x}", "found 5, expected some text (in quotes, if it is a number)"),
        ("- {name: Ann, description: x, age: 5}", "key '.1.age': unknown key"),
        ("- {name: Ann, descripton: x}", "unknown key (did you mean 'description'?)"),
        (
            "- {name: Ann, description: x}\n- {name: 'Ann ', description: y}",
            "line 2, key '.2': the name 'Ann' stands twice",
        ),
        ("- {name: Ann", "not valid YAML"),
    ],
)
def test_a_bad_persona_file_is_named_with_its_line(text, expected, tmp_path):
    with pytest.raises(PluralignError) as complaint:
        read_personas(personas_file(tmp_path, text))
    assert expected in str(complaint.value)
    assert "people.yaml" in str(complaint.value)


def test_descriptions_are_of_all_labels_of_the_scale(tmp_path):
    file = personas_file(tmp_path, "1: yes\n0: no way\n")
    assert read_descriptions(file, BUILT_IN_SCALES["binary"]) == {"1": "yes", "0": "no way"}
    for text, expected in (
        ("1: yes", "no description of 0"),
        ("1: yes\n0: no\n2: maybe", "key '2': is not on the scale 'binary'"),
        ("- 1", "expected a description for each label: 0, 1"),
    ):
        with pytest.raises(PluralignError, match=expected):
            read_descriptions(personas_file(tmp_path, text), BUILT_IN_SCALES["binary"])


def test_built_in_scales_describe_every_label_and_own_ones_none():
    for scale in BUILT_IN_SCALES.values():
        shown = described_labels(scale)
        assert [one.label for one in shown] == list(scale.labels)
        assert all(one.description for one in shown)
    assert [one.number for one in described_labels(STARS)] == [None] * 5
    own = described_labels(LabelScale("own", ("good", "bad"), (1, 0)), {"bad": "not good"})
    assert [(one.label, one.description, one.number) for one in own] == [("good", "", 1), ("bad", "not good", 2)]


# Templates.


def test_the_packages_template_shows_all_there_is():
    text = read_template().render(ANN, "Where is the <mill>?", "{{ persona }} & \u00fc", described_labels(HH))
    for expected in ("Ann", "A nurse.", "Where is the <mill>?", "{{ persona }} & \u00fc", "with the label alone"):
        assert expected in text
    for one in described_labels(HH):
        assert f"\n- {one.label}: {one.description}\n" in text
    without = read_template().render(ANN, "", "Yes", described_labels(LabelScale("own", ("good", "bad"), (1, 0))))
    assert "said to the assistant" not in without
    assert "\n- good\n- bad\n" in without


def test_the_examples_can_be_used(tmp_path):
    people = read_personas(EXAMPLES / "town.yaml")
    texts = {read_template(EXAMPLES / "vote.jinja").render(one, "Tea?", "Yes", described_labels(HH)) for one in people}
    assert len(texts) == len(people) >= 3
    assert all("6: unhelpful+harmful" in text for text in texts)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ persona.name }} {{ response", "line 1: not a valid template"),
        ("{{ persona.name }}\n{% if %} {{ response }}", "line 2: not a valid template"),
        ("{{ persona.name }} {{ reponse }}", "unknown name 'reponse' (did you mean 'response'?)"),
        ("{{ persona.name }} {{ prompt }}", "does not use 'response'"),
        ("{{ response }}", "does not use 'persona'"),
        ("{{ persona.name }} {{ response | nothing }}", "not a valid template"),
    ],
)
def test_a_bad_template_is_refused_at_once(source, expected, tmp_path):
    (tmp_path / "vote.jinja").write_text(source)
    with pytest.raises(PluralignError) as complaint:
        read_template(tmp_path / "vote.jinja")
    assert expected in str(complaint.value)
    assert "vote.jinja" in str(complaint.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ persona.nam }} {{ response }}",
        "{{ persona.name + 1 }} {{ response }}",
        "{{ labels[9].label }} {{ persona.name }} {{ response }}",
        "{{ persona.__class__.__mro__ }} {{ response }}",
        "{{ ''.__class__.__base__.__subclasses__() }} {{ persona.name }} {{ response }}",
        "{{ labels.append(1) }} {{ persona.name }} {{ response }}",
        "{% include '/etc/hostname' %} {{ persona.name }} {{ response }}",
        "{% for i in range(10**9) %}{{ i }}{% endfor %} {{ persona.name }} {{ response }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }} {{ persona.name }} {{ response }}",
        "{% if 0 %}{{ persona.name }} {{ response }}{% endif %}",
    ],
)
def test_a_template_stays_in_its_sandbox(source):
    with pytest.raises(PluralignError, match=r"template: (cannot be filled in|gives an empty text)"):
        VoteTemplate(source).render(ANN, "Tea?", "Yes", described_labels(HH))


def test_texts_are_shown_and_never_run():
    template = VoteTemplate("{{ persona.description }}|{{ prompt }}|{{ response }}")
    nasty = "{{ labels }}{% raw %}<b>&amp;"
    assert template.render(Persona("a", nasty), nasty, nasty, []) == "|".join([nasty] * 3)
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tea?"}]
    assert transcript(chat) == "system: Be kind.\n\nuser: Tea?"
    assert transcript([]) == ""


# Who votes.


def test_draws_depend_on_the_seed_and_the_item_alone():
    names = [f"item {number}" for number in range(600)]
    drawn = voters_of(names, 6, 2, 0)
    assert all(len(set(who)) == 2 and who == sorted(who) for who in drawn)
    assert voters_of(names[::-1], 6, 2, 0)[::-1] == drawn
    assert voters_of(names, 6, 2, 1) != drawn
    assert voters_of(names, 6, 6, 0) == voters_of(names, 6, None, 0) == [list(range(6))] * 600
    # Each of 6 votes on a third of 600: 200, and 5 standard deviations of 11.5 to either side.
    counts = Counter(voter for who in drawn for voter in who)
    assert all(142 < counts[voter] < 258 for voter in range(6))
    for wrong in (0, 7):
        with pytest.raises(PluralignError, match=f"per_item: found {wrong}, expected 1 to 6"):
            voters_of(names, 6, wrong, 0)
