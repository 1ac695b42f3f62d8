"""Personas: their files, the questions they get, and who votes."""

from collections import Counter
from pathlib import Path

import pytest

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
STARS = BUILT_IN_SCALES["1-to-5"]
EXAMPLES = Path(__file__).parents[2] / "examples" / "personas"
ANN = Persona("Ann", "A nurse.")


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
            "line 2, key '.2': the name 'Ann' appears twice",
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
