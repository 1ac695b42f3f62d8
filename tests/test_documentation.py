"""The documentation names what exists: public names, modules, and the papers."""

import importlib
import re
from pathlib import Path

import pytest

import pluralign

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
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
