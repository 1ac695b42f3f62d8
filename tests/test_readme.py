"""The README does what it says: its commands and its Python run, on the data of `demo --data-only` with few steps."""

import contextlib
import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import pluralign
from commands import Command, blocks, commands, unknown_words
from pluralign.cli.main import main
from pluralign.demo import run as demo_module
from pluralign.judgments.population import DEFAULT_TYPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STEPS = 2
BRIEF, *OTHERS = DEFAULT_TYPES
TOWN = {
    "annotators": 24, "judgments_per_annotator": 10, "responses": 3,
    "types": (replace(BRIEF, share=6.0), *OTHERS), "noise": 0.3,  # a reward is better than chance after a few steps
}  # fmt: skip


def shorter(*given):
    """The configs of the demo's runs, with few steps."""
    steps = {"reward": 30}
    return {name: {**config, "max_steps": steps.get(name, STEPS)} for name, config in demo_configs(*given).items()}


demo_configs = demo_module.configs


def command_line(monkeypatch, words):
    """Run the command line in this process; what it printed."""
    monkeypatch.setattr(sys, "argv", ["pluralign", *words])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    assert not code, f"{words}: {printed.getvalue()}"
    return printed.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which `pluralign demo --data-only --out town` was run, with a small town and few steps."""
    out = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "configs", shorter)
        patch.setattr(demo_module, "TOWN", TOWN)
        patch.chdir(out)
        printed = command_line(patch, ["demo", "--data-only", "--out", "town"])
    assert str(Path("town") / "language-model") in printed
    return out


def test_demo_data_only_writes_what_its_runs_need_and_no_more(folder):
    town = folder / "town"
    assert {file.name for file in town.iterdir() if file.is_dir()} == {"untrained", "language-model"}
    for name in ("train", "tuning", "test"):
        assert len(pluralign.read(town / f"{name}.parquet")) > 0
    configs = {file.stem: yaml.safe_load(file.read_text()) for file in town.glob("*.yaml")}
    made = {"reward", "policy", "types", "crowd", "rlhf", "matched", "people"}
    assert set(configs) == made | {"language-model"}
    for config in configs.values():
        for key in ("train_files", "eval_files"):
            assert all((folder / file).exists() for file in config[key])


@pytest.mark.slow
def test_the_commands_of_the_readme_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    section = README.split("## On the command line")[1].split("\n## ")[0]
    lines = [command for command in commands(section) if len(command.words) > 1]
    assert len(lines) == 8
    assert lines[0].words[:2] == ["demo", "--data-only"]  # the fixture
    for command in lines[1:]:
        quicker = []
        if command.words[0] == "audit":
            quicker = ["--most-types", "2", "--simulations", "0"]
        if command.words[0] == "aggregate":  # the values of the README, made smaller
            quicker = ["--max-prompts", "4", "--max-tuning-prompts", "4", "--candidates", "2", "--trials", "1"]
            quicker += ["--samples", "1", "--max-new-tokens", "8"]
        given = [word for place, word in enumerate(command.words) if not _overridden(command.words, place, quicker)]
        if command.words[0] == "train" and command.words[1].endswith("types.yaml"):
            given += ["--types", "2"]
        command_line(monkeypatch, [*given, *quicker])
    assert "town-reward" in Path("page.html").read_text(encoding="utf-8")


def _overridden(words, place, flags):
    """Whether a word is a flag, or the value of a flag, that `flags` sets."""
    return words[place] in flags or (place > 0 and words[place - 1] in flags and words[place - 1].startswith("--"))


@pytest.mark.slow
def test_the_python_of_the_readme_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (source,) = blocks(README, "python")
    source = source.replace("learning_rate=2e-3", f"learning_rate=2e-3, max_steps={STEPS}").replace(
        '"audit")', '"audit", most_types=2)'
    )
    assert f"max_steps={STEPS}" in source
    assert "most_types=2" in source
    names = {}
    exec(compile(source, "README.md", "exec"), names)
    assert names["audit"]["types"] in (1, 2)
    assert Path("policies-evaluation/metrics.json").exists()


def test_every_command_of_the_readme_exists():
    found = commands(README)
    assert len(found) > 10
    assert not [(command.words, wrong) for command in found if (wrong := unknown_words(command))]


def test_a_command_that_does_not_exist_is_found():
    assert unknown_words(Command(["audit", "x.parquet", "--outt", "y"])) == ["--outt"]
    assert unknown_words(Command(["audits", "x.parquet"])) == ["audits", "x.parquet"]
    assert unknown_words(Command(["votes", "update", "state", "file"])) == []


def test_links_of_the_readme_exist():
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert targets
    assert not [target for target in targets if not target.startswith("http") and not (ROOT / target).exists()]


def test_numbers_of_the_results_are_in_the_linked_tables():
    section = README.split("## Results")[1]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ") and "](bench/results/" in line]
    assert len(rows) == 11
    for question, result, link in rows:
        table = (ROOT / re.search(r"\((bench/results/\w+\.md)\)", link)[1]).read_text(encoding="utf-8")
        for interval in re.findall(r"\[([^\]]+), ([^\]]+)\]", result):
            assert any(_same(interval, given) for given in re.findall(r"\[([^\],|]+), ([^\],|]+)\]", table)), (
                f"{question}: [{', '.join(interval)}] is not in the table"
            )


def _same(shown, given):
    """Whether an interval is shown as it is given, rounded to the digits that are shown."""
    try:
        pairs = [(end, float(exact)) for end, exact in zip(shown, given, strict=True)]
    except ValueError:
        return False
    return all(abs(float(end) - exact) <= 0.51 * 10 ** -len(end.partition(".")[2]) for end, exact in pairs)
