"""The command line, run in this process."""

import sys

import pytest

from pluralign.cli.main import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: exit code, what it printed, what it complained."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["pluralign", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
