"""`audit` by several processes that a launcher started: the answer of one process, written and printed once."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from pluralign.choice.latent_class.processes import launched
from pluralign.core.errors import PluralignError
from pluralign.judgments.population import Town, simulate
from pluralign.workflows.audit import run
from pluralign.workflows.audit.run import audit
from processes import ends_of_two_processes

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "pluralign"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def table(tmp_path):
    town = Town(annotators=60, judgments_per_annotator=12, responses=3, seed=1)
    simulate(town).judgments.write(tmp_path / "town.parquet")
    return tmp_path / "town.parquet"


@pytest.mark.slow
def test_two_processes_give_the_audit_of_one(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["audit", "town.parquet", "--simulations", "1", "--most-types", "4", "--out"]
    done = [
        subprocess.run(
            [*launch, *words, out], env=ENVIRONMENT, capture_output=True, text=True, timeout=400, check=False
        )
        for launch, out in ((TORCHRUN, "two"), (TORCHRUN, "two"), ([sys.executable, "-m", "pluralign"], "one"))
    ]
    assert [one.returncode for one in done] == [0, 0, 0], done[0].stderr
    assert done[0].stdout.replace("two", "one") == done[2].stdout  # printed once
    assert (done[1].stdout, done[1].stderr) == (done[0].stdout, "two: already finished; nothing to do\n")
    two, one = (json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("two", "one"))
    assert two["types"] == one["types"] > 1
    assert two == {
        key: value if isinstance(value, str) else pytest.approx(value, rel=1e-6) for key, value in one.items()
    }
    for name in ("types", "annotators", "worths"):
        found, expected = (pq.read_table(tmp_path / out / f"{name}.parquet") for out in ("two", "one"))
        assert found.schema == expected.schema
        for column in found.column_names:
            values, known = found[column].to_pylist(), expected[column].to_pylist()
            if found.schema.field(column).type == "double":
                np.testing.assert_allclose(
                    np.array(values, dtype=float), np.array(known, dtype=float), rtol=1e-4, atol=1e-6
                )
            else:
                assert values == known, column
    assert not (tmp_path / "two" / ".lock").exists()


def test_a_process_without_a_group_is_told_so(table):
    with pytest.raises(PluralignError, match="this process is in no group"):
        audit(table, distributed=True)


def test_if_one_process_is_killed_the_other_says_so(table, tmp_path):
    def audited():
        with launched("audit") as number:
            if number == 0:
                run._audited = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
            audit(table, tmp_path / "out", types=2, simulations=0, distributed=True)

    assert ends_of_two_processes(audited, tmp_path) == [-signal.SIGKILL, 1]
    assert "another process of this audit has stopped" in (tmp_path / "1.fault").read_text()
    assert not (tmp_path / "out" / "metrics.json").exists()
