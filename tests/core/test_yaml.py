"""One reader for all YAML: what is written is what is read, and a small file is a small value."""

import time

import pytest
import yaml

from pluralign.core.errors import PluralignError
from pluralign.core.yaml_lines import parse_yaml, read_yaml
from pluralign.judgments.formats.mapping import read_mapping_file
from pluralign.judgments.scales import label_scale


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("No", "No"), ("y", "y"), ("true", True), ("False", False), ("1:30", "1:30"),
        ("190:20:30", "190:20:30"), ("010", "010"), ("0x1F", "0x1F"), ("0b1", "0b1"), ("1_000", "1_000"),
        ("2024-05-31", "2024-05-31"), ("2024-05-31T12:00:00Z", "2024-05-31T12:00:00Z"), ("0", 0), ("-12", -12),
        ("1.50", 1.5), (".5", 0.5), ("1e-6", "1e-6"), ("1.0e-06", 1e-6), (".inf", float("inf")), ("null", None),
        ("~", None), ("'010'", "010"), ("=", "="), ("9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_scalars(text, value):
    found = parse_yaml(f"key: {text}", "example").plain()["key"]
    assert found == value
    assert type(found) is type(value)


def test_what_the_library_writes_comes_back(tmp_path):
    values = [
        True,
        None,
        1e-6,
        1.5,
        10**20,
        "yes",
        "010",
        "1:30",
        "1.5e10",
        "-.5",
        "null",
        "",
        "2024-05-31",
        "a: b",
        "é",
    ]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"values": values}, allow_unicode=True), encoding="utf-8")
    assert read_yaml(tmp_path / "c.yaml") == {"values": values}


def test_labels_are_as_they_are_written(tmp_path):
    (tmp_path / "s.yaml").write_text("name: null\nlabels: {yes: 1, no: 0.5, 1:30: 0, 010: -1, 1.50: 2}\n")
    scale = label_scale(tmp_path / "s.yaml")
    assert scale.labels == ("yes", "no", "1:30", "010", "1.50")
    assert scale.rewards == (1.0, 0.5, 0.0, -1.0, 2.0)
    assert scale.name == "own"
    (tmp_path / "s.yaml").write_text("labels: [on, 2024-05-31, 08]\nrewards: [1, 2, 3]\n")
    assert label_scale(tmp_path / "s.yaml").labels == ("on", "2024-05-31", "08")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("labels: {a: 1, b: 2, a: 3}", "key 'labels.a': appears twice"),
        ("labels: [a, b]\nlabels: [c, d]\nrewards: [1, 2]", "key 'labels': appears twice"),
        ("labels: {a: 1, b: yes}", "must be a list of numbers"),
        (f"labels: {{a: 1, b: {10**400}}}", "expected 2 finite rewards"),
        ("labels: {a: 1, b: .nan}", "expected 2 finite rewards"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: &a [*a]", "nested too deeply"),
        (f"a: {'1' * 5000}", "not valid YAML"),
        ("", "the file is empty"),
    ],
)
def test_faults_are_named(text, expected, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(PluralignError, match=expected):
        label_scale(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    "text", ["{name}: 1\nresponses: [a]", "prompt: '{{{name}'", "{name}: 1\n{name}: 2", "a: &b{name} *c"]
)
def test_long_names_make_no_long_messages(text, tmp_path):
    (tmp_path / "m.yaml").write_text(text.replace("{name}", "9" * 5000))
    with pytest.raises(PluralignError) as caught:
        read_mapping_file(tmp_path / "m.yaml")
    assert len(str(caught.value)) < 1500


def test_aliases_cannot_make_a_small_file_large(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    start = time.perf_counter()
    with pytest.raises(PluralignError, match="its aliases stand for too many values"):
        read_yaml(tmp_path / "bomb.yaml")
    assert time.perf_counter() - start < 2
    (tmp_path / "fine.yaml").write_text("base: &b {rate: 1}\nruns: [*b, *b]\n")
    assert read_yaml(tmp_path / "fine.yaml")["runs"] == [{"rate": 1}, {"rate": 1}]
