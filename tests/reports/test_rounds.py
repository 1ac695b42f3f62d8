"""The section of a run of EM-DPO."""

import json

import pytest

from pluralign.core.errors import PluralignError
from pluralign.core.records import record_of
from pluralign.reports.rounds import TypeRounds
from pluralign.reports.runs import Run, runs_page
from pluralign.workflows.report import report
from reports.conftest import HOSTILE
from reports.test_page import check

CONTENT = {
    "kept": {"round": 1, "reason": "round 1 predicts held-out judgments better", "gain": 0.1, "dropped": []},
    "identification": {"verdict": "weak", "reason": "few judgments", "advice": "collect more"},
    "rounds": [
        {"round": 0, "mixture_weights": [0.5, 0.5]},
        {
            "round": 1, "scored_judgments": 40, "log_likelihood": -60.0, "log_likelihood_per_judgment": -1.5,
            "reference_log_likelihood": -72.0, "mixture_weights": [0.7, 0.3], "moved": 0.25,
        },
    ],
}  # fmt: skip


def page(content):
    types = record_of(content, TypeRounds, "types.json")
    config = {"objective": "em-dpo", "model_name_or_path": "base"}
    return runs_page([Run("run", {"types": 2}, config, types=types)])


def test_verdict_shares_and_rounds_are_shown():
    words = check(page(CONTENT)).replace("\u2212", "-")
    for expected in (
        "few judgments",
        "collect more",
        "start",
        "round 1",
        "-1.5",
        "-1.8",
        "25",
        "predicts held-out judgments better",
    ):
        assert expected in words, expected
    check(page(CONTENT | {"rounds": []}))


def test_hostile_texts_stay_texts():
    for text in HOSTILE.values():
        told = {"identification": {"verdict": text, "reason": text, "advice": text}}
        hostile = page(CONTENT | told | {"kept": {"round": 0, "reason": text}})
        check(hostile)
        assert "<script" not in hostile


def test_the_types_of_a_folder_are_read_and_another_shape_is_named(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.json").write_text("{}")
    (folder / "types.json").write_text(json.dumps(CONTENT))
    report([folder], tmp_path / "page.html")
    assert "few judgments" in check((tmp_path / "page.html").read_text())
    (folder / "types.json").write_text(json.dumps(CONTENT | {"rounds": [{"round": 1, "mixture_weights": ["far"]}]}))
    with pytest.raises(PluralignError, match=r"types\.json, rounds\[0\]\.mixture_weights\[0\]: found 'far'"):
        report([folder], tmp_path / "page.html")
