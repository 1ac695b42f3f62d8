"""The documentation names what exists: public names, modules, and the papers."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml

import pluralign
from commands import blocks, commands, unknown_words
from pluralign.cli.fields import keys_of
from pluralign.training.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.md"), ROOT / "README.md"])
SCRIPTS = [path for path in sorted((ROOT / "docs" / "tutorials").glob("*.py")) if path.name != "build.py"]
TEXTS = [*PAGES, *SCRIPTS]
PAPERS = {
    "more.md": ["2312.07401"],
    "dprm.md": ["2402.09764"],
    "em-dpo.md": ["2405.15065", "2510.15716"],
    "aggregation.md": ["2510.15716"],
    "preference-matching.md": ["2405.16455"],
    "pm-dpo.md": ["2405.16455"],
}


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def test_the_reference_lists_every_public_name_once():
    listed = re.findall(r"^::: pluralign\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(pluralign.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_dotted_names_and_imports_of_a_page_exist(page):
    text = page.read_text()
    names = set(re.findall(r"\bpluralign(?:\.[A-Za-z_]\w*)+", text))
    for module, imported in re.findall(r"^from (pluralign[\w.]*) import (.+)$", text, re.MULTILINE):
        names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
    assert not [name for name in sorted(names) if not exists(name)]


@pytest.mark.parametrize("page", PAPERS)
def test_the_page_of_a_paper_begins_with_its_arxiv_id(page):
    beginning = "\n".join((ROOT / "docs" / page).read_text().splitlines()[:12])
    assert all(paper in beginning for paper in PAPERS[page])


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_commands_of_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":  # the text of a tutorial is in comments
        text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    assert not [(command.words, wrong) for command in commands(text) if (wrong := unknown_words(command))]


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_python_of_a_page_compiles_and_its_keywords_exist(page):
    text = page.read_text(encoding="utf-8")
    for source in [text] if page.suffix == ".py" else blocks(text, "python"):
        for call in ast.walk(ast.parse(source, page.name)):
            if isinstance(call, ast.Call) and (function := public_function(ast.unparse(call.func))) is not None:
                known = inspect.signature(function).parameters
                if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
                    continue
                assert not [word.arg for word in call.keywords if word.arg not in {*known, None}], ast.unparse(call)


def public_function(name):
    """The function or class `pluralign.NAME`; `None` for other names."""
    module, _, attribute = name.rpartition(".")
    return getattr(pluralign, attribute) if module == "pluralign" and attribute in pluralign.__all__ else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_of_the_configs_of_a_page_exist(page):
    for source in blocks(page.read_text(encoding="utf-8"), "yaml"):
        config = yaml.safe_load(source)
        if isinstance(config, dict) and config.get("objective") in OBJECTIVES:
            known = {key.name for keys in keys_of(config["objective"]).values() for key in keys}
            assert not [key for key in config if key not in known]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_page_of_a_tutorial_has_all_cells_of_its_script(script):
    page = script.with_suffix(".md").read_text(encoding="utf-8")
    missing = [source for _, source in cells_of(script) if source not in page]
    assert not missing, "run `make docs`"


def cells_of(script):
    """The cells of a script in the percent format: whether a cell is Markdown, and its source."""
    before, *parts = re.split(r"^# %%", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert before == ""
    for part in parts:
        head, _, source = part.partition("\n")
        assert head in ("", " [markdown]")
        lines = source.strip().splitlines()
        if head:
            assert all(line == "#" or line.startswith("# ") for line in lines)
            lines = [line[2:] for line in lines]
        yield bool(head), "\n".join(lines)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_tutorial_is_a_notebook_whose_cells_compile(script):
    first, *_ = cells = list(cells_of(script))
    assert first[0], "a notebook begins with its title"
    assert first[1].startswith("# ")
    assert sum(not markdown for markdown, _ in cells) > 5
    for markdown, source in cells:
        assert source
        if not markdown:
            compile(source, script.name, "exec")
