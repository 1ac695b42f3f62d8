"""Pages: one file that needs nothing, deterministic, everything from the data escaped."""

import html.parser
import re

import pytest

from pluralign.core.errors import PluralignError
from pluralign.reports.audit.page import audit_page
from pluralign.reports.audit.schema import SHAPE
from pluralign.reports.comparison import runs_page
from pluralign.reports.page import Note, Section, Table, render
from pluralign.reports.runs import Run
from reports.conftest import HOSTILE, hostile_audit

ALLOWED = {
    "a", "article", "bdi", "body", "caption", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "footer", "h1",
    "h2", "h3", "h4", "h5", "head", "header", "html", "li", "main", "meta", "nav", "p", "path", "section", "span", "style",
    "summary", "svg", "table", "tbody", "td", "text", "th", "thead", "title", "tr", "ul",
}  # fmt: skip
VOID = {"meta", "path"}


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text; complains where tags do not nest."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.open, self.words, self.ids = set(), set(), [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check(page):
    read = Reader(page)
    assert read.tags <= ALLOWED, read.tags - ALLOWED
    assert not [name for name in read.attributes if name.startswith("on")]
    assert len(read.ids) == len(set(read.ids))
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!["']?#)""", re.sub(r">[^<]*<", "><", page))
    assert "@import" not in page
    assert "url(" not in page
    return "".join(read.words)


def test_an_audit_page_is_whole_and_needs_nothing(audit, audit_metrics):
    page = audit_page(audit, audit_metrics)
    words = check(page)
    for expected in (
        "Yes: the types are identified", "6,720", "chosen: 3", "type 2", "hedging", "nurses", "rankings of three",
        "Krippendorff", "41 people gave fewer", "Dab, do not rub", "3 types instead of one: +0.091 nats",
    ):  # fmt: skip
        assert expected in words, expected
    assert "default-src 'none'" in page
    assert 'scope="col"' in page
    assert 'scope="row"' in page


def test_the_same_audit_gives_the_same_bytes(audit, audit_metrics):
    assert audit_page(audit, audit_metrics) == audit_page(audit, audit_metrics)


def test_hostile_texts_stay_texts():
    page = audit_page(hostile_audit(), {"types": 3})
    words = check(page)
    for name in ("script", "attribute", "mathematics", "template", "closing", "word", "letters"):
        assert HOSTILE[name] in words, name
    assert "<script" not in page
    assert "<img" not in page
    assert "a\ufffdb\ufffdc\ufffdd" in words
    page.encode("utf-8")
    assert "\x00" not in page


@pytest.mark.parametrize("block", SHAPE)
@pytest.mark.parametrize("how", ["missing", "null", "empty"])
def test_any_block_may_be_missing(block, how, audit, audit_metrics):
    if how == "missing":
        del audit[block]
    else:
        audit[block] = None if how == "null" or not isinstance(audit[block], list) else []
    check(audit_page(audit, audit_metrics))


def nulls(value):
    """The same lists and objects with null for every number and text."""
    if isinstance(value, dict):
        return {key: nulls(one) for key, one in value.items()}
    if isinstance(value, list):
        return [nulls(one) for one in value]
    return None


def test_every_leaf_may_be_null(audit):
    for key in audit:
        check(audit_page({**audit, key: nulls(audit[key])}, {}))
    check(audit_page(nulls(audit), {}))
    words = check(audit_page({}, {}))
    assert "holds no verdict" in words


def test_counts_that_are_floats_and_numbers_that_are_not_finite_are_shown(audit):
    audit["types"][0]["share"] = float("nan")
    audit["selection"][0]["held_out"] = float("inf")
    audit["data"]["judgments"] = 12.0
    words = check(audit_page(audit, {}))
    assert not re.search(r"\b(?:nan|inf)\b", words, re.IGNORECASE)


def test_the_verdict_decides_the_banner(audit, audit_metrics):
    for verdict, tone, words in (
        ("identified", "good", "Who they are"),
        ("weak", "careful", "take them as a guess"),
        ("not identified", "bad", "do not act on the ones below"),
    ):
        audit["identification"] |= {"verdict": verdict, "mend": "Ask for rankings of three."}
        page = audit_page(audit, audit_metrics)
        assert f'class="banner {tone}"' in page
        assert words in page
        assert "What would help: Ask for rankings of three." in page


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"types": {}}, "audit.json, types: found {}, expected a list or null"),
        ({"data": []}, "audit.json, data: found [], expected an object"),
        ({"data": {"judgments": "many"}}, "audit.json, data.judgments: found 'many', expected a number or null"),
        ({"warnings": [3]}, "audit.json, warnings[0]: found 3, expected text or null"),
        ({"identification": {"posterior_entropy": {"edges": [0, 1], "counts": [1, 2]}}}, "2 edges for 2 counts"),
    ],
)
def test_a_block_of_another_shape_is_named(change, expected):
    with pytest.raises(PluralignError) as complaint:
        audit_page(change, {})
    assert expected in str(complaint.value)


def test_long_texts_are_folded_and_short_ones_not():
    page = render("t", "", [Section("s", [Table("n", ["a", "b"], [["short", "x " * 400]])])])
    assert page.count('<details class="long">') == 1
    assert "x " * 399 + "x" in page


def test_no_text_is_a_template():
    assert "{{ 7*7 }}" in render("{{ 7*7 }}", "{% for %}", [Section("{{ 1 }}", [Note("{{ 2 }}")])])


def test_runs_are_compared_only_on_the_same_data():
    def run(name, accuracy, fingerprint):
        found = {"accuracy": accuracy, "accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02}
        config = {"command": "evaluate", "model": "m", "files": ["t.parquet"]}
        return Run(name, found, config, {"inputs": {"t.parquet": fingerprint, "m/model.safetensors": name}})

    words = check(runs_page([run("a", 0.7, "1"), run("b", 0.6, "1")]))
    assert "does best. Its interval stands clear of" in words
    assert "Not judged on the same data" not in words
    words = check(runs_page([run("a", 0.7, "1"), run("b", 0.69, "1")]))
    assert "overlaps with" in words
    words = check(runs_page([run("a", 0.7, "1"), run("b", 0.7, "1")]))
    assert "are level" in words
    words = check(runs_page([run("a", 0.7, "1"), run("b", 0.6, "2")]))
    assert "Not judged on the same data" in words
    assert "does best" not in words


def test_a_run_with_every_file_and_hostile_texts_is_drawn():
    text = HOSTILE["attribute"]
    metrics = {
        "accuracy": 0.6,
        "win_rate": 0.55,
        "win_rate_low": 0.5,
        "win_rate_high": 0.6,
        text: text,
        "odd": [1, None],
    }
    metrics |= {f"accuracy/group={name}": 0.5 for name in HOSTILE.values()}
    run = Run(
        HOSTILE["script"], metrics, {"objective": text, "eval_files": [text], text: {text: text}}, {"packages": {text: text}},
        [{"lower": 0.5, "upper": 0.6, "pairs": 3, "share": 1.0, "confidence": 0.55, "accuracy": 0.4, "gap": -0.15}],
        {"annotator": [text, "b"], "judgments": [1, 2], "pairs": [1, 0], "accuracy": [0.5, None], "log_loss": [0.7, None]},
        [{"prompt": text, "by": "policy", "response": text, "reward": 1.0}, {"prompt": None}],
    )  # fmt: skip
    words = check(runs_page([run]))
    assert text in words
    assert "15 points less often than it says: too sure" in words
    check(runs_page([run, Run("empty", {})]))
