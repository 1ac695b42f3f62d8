"""What an audit says first, on the terminal and on its page: one kind of people, two camps, differences by degrees."""

import shutil

import numpy as np
import pytest

from pluralign.core.runs import read_metrics
from pluralign.judgments import BUILT_IN_SCALES, Judgments

STATEMENTS = [
    "Close the centre to cars", "More bus lanes", "Cheaper parking downtown", "A curfew for delivery vans",
    "Cycle lanes on every main road", "Trams before roads", "Longer green lights for cars", "Free buses on Sundays",
    "Plant trees along the river", "Repair the school roofs first",
]  # fmt: skip
ALL_AGREE = 2  # the last so many statements, on which both camps agree


def rankings(tastes, each, seed):
    """Rankings of three of the statements under one prompt by people with tastes `(people, statements)`."""
    rng = np.random.default_rng(seed)
    rows = []
    for person, taste in enumerate(tastes):
        for _ in range(each):
            shown = rng.permutation(len(taste))[:3]
            utility = taste[shown] + rng.gumbel(size=3)
            rows.append({"prompt": "What should the city do?", "responses": [STATEMENTS[one] for one in shown],
                         "ranks": ((-utility).argsort().argsort() + 1).tolist(), "annotator": f"p{person}"})  # fmt: skip
    return Judgments.from_rows(rows)


def one_kind():
    """The same taste for all, and much noise."""
    return rankings(np.tile(np.linspace(-1, 1, 5), (30, 1)), 8, seed=0)


def by_degrees():
    """Everybody ranks the statements along one line, some in one direction, some in the other, most hardly at all."""
    rng = np.random.default_rng(1)
    return rankings(1.5 * rng.normal(size=(100, 1)) * np.linspace(-1, 1, 5), 14, seed=1)


def two_camps():
    """Votes of 30 people who want fewer cars and 20 who want more, on ten statements of a Polis conversation."""
    rng = np.random.default_rng(2)
    rows = []
    for person in range(50):
        camp = 1 if person < 30 else -1
        for place, statement in enumerate(STATEMENTS):
            leaning = 2.0 if place >= len(STATEMENTS) - ALL_AGREE else camp * (-2.0 if place in (2, 6) else 2.0)
            drawn = leaning + rng.logistic()
            label = "pass" if abs(drawn) < 0.4 else "agree" if drawn > 0 else "disagree"
            rows.append({"prompt": "Traffic in our city", "responses": [statement], "labels": [label],
                         "annotator": f"p{person}"})  # fmt: skip
    return Judgments.from_rows(rows, BUILT_IN_SCALES["agree-pass-disagree"])


CASES = {"one kind": one_kind, "two camps": two_camps, "by degrees": by_degrees}
BEGINS = {
    "one kind": ("✓", "No types: one taste predicts held-out judgments as well as"),
    "two camps": ("✓", "Types: 2 types predict held-out judgments better than one taste does"),
    "by degrees": ("!", "People differ by degrees, not in camps"),
}


@pytest.fixture(scope="module", params=list(CASES))
def audited(request, tmp_path_factory):
    """The case, its folder, and what the command printed."""
    from typer.testing import CliRunner

    from pluralign.cli.main import app

    folder = tmp_path_factory.mktemp("answers")
    CASES[request.param]().write(folder / "table.parquet")
    words = ["audit", str(folder / "table.parquet"), "--out", str(folder / "audit"), "--simulations", "0",
             "--most-types", "2"]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return request.param, folder / "audit", result.stdout


def test_the_terminal_begins_with_the_answer(audited):
    case, folder, printed = audited
    assert printed.startswith(BEGINS[case][1])
    assert printed.startswith(read_metrics(folder)["sentence"])
    if case == "one kind":
        assert printed.splitlines()[0].endswith("Train one policy.")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_begins_with_the_answer(audited, width):
    from playwright.sync_api import sync_playwright

    case, folder, _ = audited
    sign, begin = BEGINS[case]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.goto((folder / "report.html").as_uri())
        verdict = tab.locator(".banner .verdict")
        assert verdict.inner_text().startswith(f"{sign} {begin}")
        assert verdict.bounding_box()["y"] < 400
        assert tab.locator(".banner.good").count() == (sign == "✓")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        for element in ("figure", "article", ".passage", ".tiles > div", "section"):
            assert all(tab.locator(element).evaluate_all("all => all.map(one => one.textContent.trim() !== '')")), (
                element
            )
        prompt = "Traffic in our city" if case == "two camps" else "What should the city do?"
        assert tab.inner_text("body").count(prompt) == 1
        assert not tab.get_by_text("eigenvalue").first.is_visible()
        titles = tab.locator("h2").all_inner_texts()
        assert titles[-1] == "Statistics"
        if case == "one kind":
            assert tab.locator("article:visible").count() == 0
            assert "What annotators say" in titles
        if case == "two camps":
            assert titles[:3] == ["Verdict", "The types", "What divides and what unites"]
            words = tab.locator("section").nth(2).inner_text()
            agreed = words.index("What all types agree on")
            assert words.index("Plant trees along the river") > agreed > words.index("Longer green lights for cars")
            assert "log-odds" in tab.content()
        browser.close()
