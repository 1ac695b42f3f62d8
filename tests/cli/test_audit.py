"""`audit` through the command line: a real conversation, its page in a browser, bad usage."""

import shutil

import pytest

from pluralign.core.runs import read_metrics
from pluralign.judgments import Judgments


@pytest.fixture
def table(tmp_path):
    rows = [
        {
            "prompt": "Tea?",
            "responses": ["yes", "no"],
            "ranks": [1, 2] if n % 3 else [2, 1],
            "annotator": f"p{n % 6}",
        }
        for n in range(36)
    ]
    Judgments.from_rows(rows).write(tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def test_an_audit_is_written_and_goes_on_one_page_with_others(run, table, tmp_path):
    code, printed, _ = run("audit", table, "--out", tmp_path / "audit", "--simulations", 0)
    assert code == 0
    assert "report.html" in printed
    assert printed.startswith(read_metrics(tmp_path / "audit")["sentence"])
    assert "36 judgments by 6 annotators on 2 responses" in printed
    assert "agreement (Krippendorff's alpha)" in printed
    assert len(printed.splitlines()) < 10
    code, _, complaint = run("audit", table, "--out", tmp_path / "audit", "--simulations", 0)
    assert (code, complaint) == (0, "")
    code, _, _ = run("report", tmp_path / "audit", "--out", tmp_path / "page.html")
    assert code == 0
    assert "What the data can tell" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--types", "9"], "expected 1 to 6, the number of annotators"),
        (["--types", "few"], "expected auto or a number"),
        (["--features", "no/such/model"], "no/such/model"),
        (["--ties", "davidson"], "davidson needs ties, and the table has none"),
    ],
)
def test_bad_usage_is_one_line(run, table, tmp_path, words, said):
    code, printed, complaint = run("audit", table, "--out", tmp_path / "audit", *words)
    assert code == 2
    assert printed == ""
    assert said in complaint
    assert "Traceback" not in complaint


def test_side_tables_through_the_command_line(run, table, tmp_path):
    (tmp_path / "responses.csv").write_text("response,length,vowels\nyes,3,1\nno,2,0\n")
    (tmp_path / "annotators.csv").write_text("annotator,age\n" + "".join(f"p{n},{30 + n * n}\n" for n in range(6)))
    words = ("audit", table, "--out", tmp_path / "audit", "--types", 2, "--simulations", 0, "--noise-type",
             "--response-features", tmp_path / "responses.csv", "--annotator-features", tmp_path / "annotators.csv",
             "--shared", "length", "--shared", "vowels")  # fmt: skip
    code, _, complaint = run(*words)
    assert (code, complaint) == (0, "")
    assert read_metrics(tmp_path / "audit")["features"] == "response_features"
    (tmp_path / "annotators.csv").write_text("annotator,age\np0,31\n")
    code, _, complaint = run(*words)
    assert code == 2
    assert "annotators.csv" in complaint
    code, _, complaint = run(*words[:2], "--out", tmp_path / "other", *words[4:])
    assert code == 2
    assert "lacks 5 of the 6 annotators" in complaint
    assert complaint.count("\n") == 1


def test_a_table_without_a_judgment_is_one_line(run, tmp_path):
    Judgments.from_rows([{"prompt": "Tea?", "responses": ["yes"], "ranks": [1]}]).write(tmp_path / "one.parquet")
    code, _, complaint = run("audit", tmp_path / "one.parquet", "--out", tmp_path / "audit")
    assert code == 2
    assert "no judgment is left" in complaint


@pytest.fixture(scope="module")
def conversation(shared_data, tmp_path_factory):
    """A Polis conversation through import and audit."""
    from pluralign.workflows.audit.run import audit
    from pluralign.workflows.importing import import_files

    folder = tmp_path_factory.mktemp("polis")
    votes = shared_data / "polis_open" / "brexit-consensus.participants-votes.csv.gz"
    import_files([votes], folder / "votes.parquet", format="polis")
    audit(str(folder / "votes.parquet"), folder / "audit", most_types=3, simulations=1)
    return folder / "audit"


def test_the_opinion_groups_of_a_real_conversation_are_found(conversation):
    metrics = read_metrics(conversation)
    assert metrics["judgments"] == 5303
    assert metrics["types"] == 2
    # A continuum predicts as well as types do or better, by about two standard errors.
    assert metrics["heterogeneity"] in ("continuum", "undecided")
    assert metrics["groups_adjusted_rand"] > 0.7


@pytest.mark.browser
def test_its_page_loads_in_a_browser_without_a_complaint(conversation):
    from playwright.sync_api import sync_playwright

    page, said = conversation / "report.html", []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 800})
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda fault: said.append(str(fault)))
        tab.on("request", lambda request: request.url != page.as_uri() and said.append(request.url))
        tab.goto(page.as_uri())
        text, width = tab.inner_text("body"), tab.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert said == []
    assert width <= 390
    assert read_metrics(conversation)["sentence"].replace("+- ", "±") in text
    assert "Labour was right to support the article 50 vote." in text  # what divides the types is not folded
    assert text.count("An experimental Pol.Is question") == 1  # the prompt stands once
