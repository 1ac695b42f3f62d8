"""What --quiet, --verbose and the launchers of several processes do to what is said."""

import logging

import pytest

from pluralign.cli.verbosity import RANKS, set_verbosity
from pluralign.core.progress import CONSOLE, say, silenced

OWN = logging.getLogger("pluralign")


@pytest.fixture(autouse=True)
def as_before():
    yield
    CONSOLE.quiet = CONSOLE.verbose = False
    OWN.setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", RANKS)
def test_of_several_processes_the_first_speaks(name, monkeypatch, capsys):
    for rank in "01":
        monkeypatch.setenv(name, rank)
        assert set_verbosity(["train", "x.yaml"]) == ["train", "x.yaml"]
        say(f"from {rank}")
        assert OWN.isEnabledFor(logging.WARNING) == (rank == "0")
    assert capsys.readouterr().err == "from 0\n"


def test_steps_of_a_command_are_silent_unless_it_is_verbose(capsys):
    for words in (["demo"], ["demo", "--verbose"]):
        assert set_verbosity(words) == ["demo"]
        with silenced():
            say(" ".join(words))
            assert OWN.isEnabledFor(logging.WARNING) == ("--verbose" in words)
        assert OWN.isEnabledFor(logging.WARNING)
    assert capsys.readouterr().err == "demo --verbose\n"
