"""Mutated inputs are read or refused in one line, and no row disappears; `tests/fuzzing.py` tries more."""

import pytest

from fuzzing import fuzz, readers

READERS = readers()


@pytest.mark.parametrize("name", READERS)
def test_mutated_inputs_give_no_traceback_and_lose_nothing(name, tmp_path):
    outcome = fuzz(name, READERS[name], 40, 1, tmp_path)
    assert not outcome.faults, "\n".join(outcome.faults[:3])
    assert outcome.counts["refused"]
    assert sum(outcome.counts.values()) == 40
