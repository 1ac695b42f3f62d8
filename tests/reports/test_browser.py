"""Pages as a person sees them: in chromium, at the width of a desk and of a phone, light and dark."""

import shutil

import pytest

from pluralign.reports.audit import audit_page
from pluralign.reports.plots import ReliabilityBin
from pluralign.reports.runs import AnnotatorResult, Run, runs_page
from reports.conftest import HOSTILE, hostile_audit
from reports.test_calibration import run_of_more
from reports.test_matching import run_of_matching

pytestmark = pytest.mark.browser

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE, DESK = 390, 1200


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    assert found, "no chromium on the path, and CI is set: install it (Debian: apt-get install chromium)"
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def look(browser, tmp_path):
    """Open a page; anything it complains of, asks the network for or pops up is a failure."""
    contexts, complaints = [], []

    def call(page, width=DESK, scheme="light"):
        file = tmp_path / "report.html"
        file.write_text(page, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(f"console: {message.text}"))
        tab.on("pageerror", lambda fault: complaints.append(f"error: {fault}"))
        tab.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        tab.on("request", lambda request: request.url != file.as_uri() and complaints.append(request.url))
        tab.goto(file.as_uri())
        return tab

    yield call
    for context in contexts:
        context.close()
    assert complaints == []


def run_of_all():
    annotators = [AnnotatorResult(f"w{n}", 9, 20, n / 29, 0.6) for n in range(30)]
    bins = [ReliabilityBin(low, low + 0.1, 9, 0.2, low + 0.05, low, -0.05) for low in (0.5, 0.6, 0.7, 0.8, 0.9)]
    metrics = {"accuracy": 0.71, "accuracy_low": 0.68, "accuracy_high": 0.74, "log_loss": 0.61, "ece": 0.05, "win_rate": 0.6,
               "accuracy/group=a": 0.5, "accuracy/group=b": 0.8}  # fmt: skip
    return Run(
        "a-rather-long-name-of-a-run-with-many-settings-in-it", metrics, {"objective": "dpo"}, {}, bins, annotators
    )


@pytest.fixture(params=["audit", "hostile", "runs", "more", "matching"])
def page(request, audit):
    if request.param == "audit":
        return audit_page(audit)
    if request.param == "hostile":
        return audit_page(hostile_audit())
    if request.param == "more":
        return runs_page([run_of_more(9)])
    if request.param == "matching":
        return runs_page([run_of_matching()])
    return runs_page([run_of_all(), Run("other", {"accuracy": 0.6, "ece": 0.1})])


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("unfolded", [False, True])
def test_nothing_runs_past_the_side(page, width, unfolded, look):
    tab = look(page, width)
    if unfolded:
        tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    past = tab.evaluate(
        "[...document.querySelectorAll('svg text')].filter(one => one.getBoundingClientRect().right > innerWidth"
        " || one.getBoundingClientRect().left < 0).map(one => one.textContent)"
    )
    assert past == []


def test_letters_are_large_enough_on_a_phone(page, look):
    tab = look(page, PHONE)
    sizes = tab.evaluate(
        "[...document.querySelectorAll('svg text')].filter(one => one.getClientRects().length)"
        ".map(one => parseFloat(getComputedStyle(one).fontSize) * one.getScreenCTM().a)"
    )
    assert len(sizes) > 20
    assert min(sizes) >= 10
    texts = tab.evaluate(
        "[...document.querySelectorAll('body *')].filter(one => one.childNodes.length && !one.closest('svg'))"
        ".map(one => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(texts) >= 11


def test_an_audit_shows_its_findings(audit, look):
    tab = look(audit_page(audit), PHONE)
    for text in (audit.identification.sentence, "Krippendorff's alpha", "type 3"):
        assert tab.get_by_text(text, exact=False).first.is_visible(), text
    assert tab.locator(".banner.good").is_visible()
    assert tab.get_by_role("article").count() == 3
    assert tab.locator(".whole:visible").count() == 0
    tab.locator("details.long > summary:visible").first.click()
    assert tab.locator(".whole:visible").count() == 1
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.get_by_role("img").count() == tab.locator("svg").count() >= 12


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_people_come_first_and_statistics_are_folded(audit, look, width):
    tab = look(audit_page(audit), width)
    assert tab.locator("h2").all_inner_texts() == [
        "Verdict", "The types", "What divides and what unites", "How the types choose", "Known groups", "The data",
        "Agreement", "Careless or mechanical annotators", "Statistics",
    ]  # fmt: skip
    assert tab.locator(".banner .verdict").inner_text() == f"✓ {audit.identification.sentence}"
    statistics = tab.get_by_text("Prediction of held-out judgments")
    assert not statistics.is_visible()
    tab.get_by_text("How many types", exact=True).click()
    assert statistics.is_visible()
    for element in ("figure", "article", ".passage", ".tiles > div"):
        assert all(tab.locator(element).evaluate_all("all => all.map(one => one.textContent.trim() !== '')"))


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_bars_are_as_long_as_their_shares_and_say_them(audit, look, width):
    tab = look(audit_page(audit), width)
    section = tab.locator("section").nth(2)
    row = section.locator(".votes li").first
    bar = row.locator(".bar").bounding_box()
    parts = [part["width"] / bar["width"] for part in (one.bounding_box() for one in row.locator(".bar span").all())]
    assert parts == pytest.approx([0.6, 0.1, 0.3], abs=0.02)
    assert (
        row.locator(".words").inner_text().replace("\xa0", " ") == "60 % agree, 10 % pass, 30 % disagree · 40 judgments"
    )
    colours = row.locator(".bar span").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(colours)) == 3
    # A prompt stands above its responses, once in each list.
    first = section.locator(".passage").first
    assert first.locator(".prompt").count() == 1
    assert first.locator(".side").count() == 3
    # Few judgments are marked; a type without any has no bar.
    assert "few: 4 judgments" in section.inner_text()
    assert row.locator("xpath=../li[3]").inner_text().endswith("no judgments")
    rest = section.get_by_text("4 more responses")
    assert not section.get_by_text("statement 15", exact=True).is_visible()
    rest.click()
    assert section.get_by_text("statement 15", exact=True).is_visible()


def test_example_pairs_stand_side_by_side_where_there_is_room(audit, look):
    for width, beside in ((DESK, True), (PHONE, False)):
        pair = look(audit_page(audit), width).locator(".beside").first
        left, right = (side.bounding_box() for side in pair.locator(".side").all())
        assert (abs(left["y"] - right["y"]) < 1) == beside
        assert pair.locator(".words").all_inner_texts() == [f"{n}\xa0%" for n in (93, 12, 50, 7, 88, 50)]


def test_hostile_texts_are_shown_and_do_nothing(look):
    tab = look(audit_page(hostile_audit()))
    assert tab.locator("script, img, iframe, object, embed, link, form").count() == 0
    shown = tab.locator("body").inner_text()
    for name in ("script", "attribute", "mathematics", "template", "closing", "letters"):
        assert HOSTILE[name] in shown, name
    assert HOSTILE["word"] not in shown
    assert HOSTILE["word"] in tab.locator("body").text_content()
    assert tab.title() == "Audit"


def test_light_and_dark_are_both_readable(audit, look):
    page = audit_page(audit)
    brightness = """selector => {
        const [property, element] = selector
        const colour = getComputedStyle(document.querySelector(element))[property]
        return colour.match(/[0-9.]+/g).slice(0, 3).reduce((sum, one) => sum + Number(one), 0) / 765
    }"""
    for scheme, dark in (("light", False), ("dark", True)):
        tab = look(page, DESK, scheme)
        back = tab.evaluate(brightness, ["backgroundColor", "figure"])
        ink = tab.evaluate(brightness, ["fill", "svg text"])
        assert (back < 0.3) == dark
        assert abs(back - ink) > 0.4
        tab.emulate_media(media="print")
        assert tab.evaluate(brightness, ["backgroundColor", "figure"]) == 1
