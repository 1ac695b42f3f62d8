"""Progress without a terminal: nothing for short work, a line with the time left for long work."""

import sys
import time

from pluralign.core import progress
from pluralign.core.progress import track


def test_short_work_prints_nothing(capsys):
    assert list(track([1, 2, 3], "Types")) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_long_work_tells_how_far_it_is(capsys, monkeypatch):
    clock = iter([0.0, 40.0, 50.0, 80.0, 90.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert progress.PAUSE == 30
    assert list(track([1, 2, 3, 4], "Types")) == [1, 2, 3, 4]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Types: 1 of 4, about 120 s left (40 s so far)",
        "Types: 3 of 4, about 27 s left (80 s so far)",
    ]
