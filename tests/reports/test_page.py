"""Pages: one file that needs nothing, deterministic, everything from the data escaped."""

import html.parser
import re
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.core.records import read_record, write_record
from pluralign.reports.audit import audit_page, verdict_banner
from pluralign.reports.audit_record import AuditPage, Verdict
from pluralign.reports.page import Note, Section, Table, render
from pluralign.reports.paired import Losses
from pluralign.reports.plots import ReliabilityBin
from pluralign.reports.runs import AnnotatorResult, DrawnResponse, Run, runs_page
from reports.conftest import HOSTILE, audit_content, audit_of, hostile_audit

ALLOWED = {
    "a", "article", "bdi", "body", "caption", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "footer", "h1",
    "h2", "h3", "h4", "head", "header", "html", "li", "main", "meta", "nav", "p", "path", "section", "span", "style",
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


def test_an_audit_page_is_whole_and_needs_nothing(audit):
    page = audit_page(audit)
    words = check(page)
    for expected in (
        "6,720", "chosen: 3", "type 2", "hedging", "nurses", "rankings of three", "Krippendorff", audit.warnings[0],
        "Dab, do not rub", "+0.091 nats", audit.identification.reason,
    ):  # fmt: skip
        assert expected in words, expected
    assert "default-src 'none'" in page
    assert 'scope="col"' in page
    assert 'scope="row"' in page


def test_the_same_audit_gives_the_same_bytes(audit):
    assert audit_page(audit) == audit_page(audit)


def test_hostile_texts_stay_texts():
    page = audit_page(hostile_audit())
    words = check(page)
    for name in ("script", "attribute", "mathematics", "template", "closing", "word", "letters"):
        assert HOSTILE[name] in words, name
    assert "<script" not in page
    assert "<img" not in page
    assert "a\ufffdb\ufffdc\ufffdd" in words
    page.encode("utf-8")
    assert "\x00" not in page


def sparse(value):
    """The record with None wherever a field may be None, and with empty lists of optional parts."""
    changes = {}
    for field in fields(value):
        own = getattr(value, field.name)
        if "None" in str(field.type):
            changes[field.name] = None
        elif is_dataclass(own):
            changes[field.name] = sparse(own)
        elif isinstance(own, list) and own and is_dataclass(own[0]):
            changes[field.name] = [sparse(item) for item in own]
    return replace(value, **changes)


def test_everything_that_may_be_missing_is_left_out(audit):
    words = check(audit_page(sparse(audit)))
    assert not re.search(r"\b(?:nan|inf|None)\b", words)
    lone = audit_content()
    lone["types"] = [lone["types"][0] | {"lifts": [], "drops": [], "members": [], "worths": [], "traits": []}]
    lone |= {
        "groups": [],
        "type_views": None,
        "group_views": None,
        "examples": None,
        "warnings": [],
        "selection": lone["selection"][:1],
    }
    lone["identification"] |= {"power": [], "advice": ""}
    lone["data"] |= {"sources": {}, "groups": {}, "ranking_lengths": {}}
    words = check(audit_page(audit_of(lone)))
    for title in ("Known groups", "What divides", "How the types choose"):
        assert title not in words


def test_the_verdict_decides_the_banner(audit):
    for verdict, tone in (("identified", "good"), ("weak", "careful"), ("not identified", "bad"), ("odd", "plain")):
        changed = replace(audit.identification, verdict=verdict, advice="Ask for rankings of three.")
        page = audit_page(replace(audit, identification=changed))
        assert f'class="banner {tone}"' in page
        assert "Ask for rankings of three." in page


def test_an_audit_is_read_back_as_it_was_written(audit, tmp_path):
    write_record(tmp_path / "audit.json", audit)
    assert read_record(tmp_path / "audit.json", AuditPage) == audit


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"types": {}}, "audit.json, types: found {}, expected a list"),
        ({"data": []}, "audit.json, data: found [], expected an object"),
        ({"data": {"files": [], "judgments": "many"}}, "audit.json, data.judgments: found 'many', expected a whole number"),
        ({"warnings": [3]}, "audit.json, warnings[0]: found 3, expected text"),
        ({"map": {"x": [True], "y": [], "type": []}}, "audit.json, map.x[0]: found True, expected a number"),
        ({"data": {}}, "audit.json, data: lacks the key 'files'"),
        (
            {"agreement": audit_content()["agreement"] | {"annotator_agreement": {"edges": [0, 1], "counts": [1, 2]}}},
            "audit.json, agreement.annotator_agreement: found 2 edges for 2 counts",
        ),
    ],
)  # fmt: skip
def test_a_block_of_another_shape_is_named(change, expected):
    with pytest.raises(PluralignError) as complaint:
        audit_of(audit_content() | change)
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
    assert "is best. Its interval does not overlap" in words
    assert "Not compared" not in words
    assert "is best. Its interval overlaps" in check(runs_page([run("a", 0.7, "1"), run("b", 0.69, "1")]))
    assert "are equal" in check(runs_page([run("a", 0.7, "1"), run("b", 0.7, "1")]))
    words = check(runs_page([run("a", 0.7, "1"), run("b", 0.6, "2")]))
    assert "Not compared" in words
    assert "is best" not in words
    words = check(runs_page([run("a", 0.7, "1"), run("b", 0.6, "2"), run("c", 0.6, "1")]))
    assert "is best. Its interval does not overlap" in words
    assert "Only runs that were evaluated on the same judgments" in words


@pytest.mark.parametrize(
    ("verdict", "advice", "heterogeneity", "types", "tone", "says"),
    [
        ("one type", "", "one taste", 1, "good", "The data would show types if there were any."),
        ("one type", "collect more", "one taste", 1, "careful", "What would help: collect more"),
        ("identified", "", "types", 2, "good", "The types are identified."),
        ("identified", "", "continuum", 2, "careful", "nobody belongs to one"),
        ("one type", "no camps", "continuum", 1, "careful", "What to do: no camps"),
        ("weak", "collect more", "undecided", 2, "careful", "not as groups of people"),
        ("not identified", "collect more", "undecided", 2, "bad", "do not act on the types below"),
        ("weak", "", "", 2, "careful", "treat them as a hypothesis"),
    ],
)
def test_the_banner_is_green_only_for_an_answer_to_act_on(verdict, advice, heterogeneity, types, tone, says):
    banner = verdict_banner(Verdict(verdict, "the reason", advice), "The sentence.", heterogeneity, types)
    assert (banner.tone, banner.title[2:]) == (tone, "The sentence.")
    assert says in " ".join(banner.paragraphs)
    assert (heterogeneity or verdict) in banner.label


def losses(log_loss, judgment=None):
    """Five annotators on six prompts, and the log-loss of each of their judgments."""
    prompt, annotator = (part.ravel() for part in np.divmod(np.arange(30), 5))
    judgment = np.arange(30) if judgment is None else judgment
    return Losses(judgment, prompt, annotator, np.ones(30), np.ones(30), np.asarray(log_loss))


def test_runs_are_compared_judgment_by_judgment():
    """The means of both runs are uncertain, and the difference is not: every judgment has the same."""
    hard = np.random.default_rng(0).uniform(0.1, 2.0, size=30)

    def run(name, kept):
        mean = float(kept.log_loss.mean())
        found = {"log_loss": mean, "log_loss_low": mean - 0.3, "log_loss_high": mean + 0.3}
        return Run(name, found, {"files": ["t.parquet"]}, {"inputs": {"t.parquet": "1"}}, losses=kept)

    words = check(runs_page([run("a", losses(hard)), run("b", losses(hard + 0.05))]))
    assert "is best. On the same judgments it is 0.05 lower than that of" in words
    assert "(95\xa0% interval 0.05\xa0to\xa00.05)" in words
    noise = np.random.default_rng(1).normal(size=30)
    words = check(runs_page([run("a", losses(hard)), run("b", losses(hard + 0.01 + noise - noise.mean()))]))
    assert "which may be chance" in words
    words = check(runs_page([run("a", losses(hard)), run("b", losses(hard + 0.05, np.arange(1, 31)))]))
    assert "Its interval overlaps that of" in words


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
        [ReliabilityBin(0.5, 0.6, 3, 1.0, 0.55, 0.4, -0.15)],
        [AnnotatorResult(text, 1, 1, 0.5, 0.7), AnnotatorResult("b", 2, 0, None, None), AnnotatorResult(None, 1, 1, 0.5, 0.7)],
        [DrawnResponse(text, "policy", text, 1.0), DrawnResponse()],
    )  # fmt: skip
    words = check(runs_page([run]))
    assert text in words
    assert "15 points below its confidence" in words
    check(runs_page([run, Run("empty", {})]))
