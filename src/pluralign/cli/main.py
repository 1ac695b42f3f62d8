"""The command line: one function per command, thin; the work is in `pluralign.workflows`."""

from __future__ import annotations

import sys

from pluralign.cli import (
    aggregating,
    answering,
    auditing,
    calibrating,
    importing,
    models,
    persona_voting,
    reporting,
    routing,
    splitting,
    voting,
)
from pluralign.cli.app import app
from pluralign.core.errors import PluralignError

COMMANDS = (
    aggregating, answering, auditing, calibrating, importing, models, persona_voting, reporting, routing, splitting,
    voting,
)  # fmt: skip
"""The modules whose commands are on the application; each command imports what it needs when it runs."""


def main() -> None:
    """Run a command. Exit code 0: done; 2: bad input or usage, in one line; 1: a fault of ours, with its trace."""
    try:
        app()
    except PluralignError as complaint:
        print(f"pluralign: {' '.join(str(complaint).split())}", file=sys.stderr)
        sys.exit(2)
