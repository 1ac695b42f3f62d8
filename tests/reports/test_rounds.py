"""The section of a run of EM-DPO."""

import json

import pytest

from pluralign.core.errors import PluralignError
from pluralign.reports.audit.schema import filled
from pluralign.reports.comparison import runs_page
from pluralign.reports.rounds import SHAPE
from pluralign.reports.runs import Run
from pluralign.workflows.report import report
from reports.conftest import HOSTILE
from reports.test_page import check, nulls

STORY = {
    "identification": {"verdict": "weak", "reason": "few judgments", "mend": "collect more"},
    "rounds": [
        {"round": 0, "mixture_weights": [0.5, 0.5]},
        {
            "round": 1, "scored_judgments": 40, "log_likelihood": -60.0, "log_likelihood_per_judgment": -1.5,
            "reference_log_likelihood": -72.0, "mixture_weights": [0.7, 0.3], "moved": 0.25,
        },
    ],
}  # fmt: skip


def page(story):
    run = Run(
        "people",
        {"types": 2},
        {"objective": "em-dpo", "model_name_or_path": "base"},
        types=filled(story, SHAPE, "types.json"),
    )
    return runs_page([run])


def test_verdict_shares_and_rounds_are_told():
    words = check(page(STORY))
    for expected in ("weak", "few judgments", "collect more", "Types found and their policies tuned from base", "start",
                     "round 1", "-1.5", "-1.8", "25"):  # fmt: skip
        assert expected in words.replace("\u2212", "-"), expected


@pytest.mark.parametrize("block", SHAPE)
def test_any_block_may_be_missing_or_null(block):
    check(page({key: value for key, value in STORY.items() if key != block}))
    check(page({**STORY, block: None}))
    check(page({**STORY, block: nulls(STORY[block])}))


def test_hostile_texts_stay_texts():
    for text in HOSTILE.values():
        found = page({**STORY, "identification": {"verdict": text, "reason": text, "mend": text}})
        check(found)
        assert "<script" not in found


def test_a_folder_s_types_are_read_and_another_shape_is_named(tmp_path):
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "metrics.json").write_text("{}")
    (tmp_path / "people" / "types.json").write_text(json.dumps(STORY))
    report([tmp_path / "people"], tmp_path / "page.html")
    assert "few judgments" in check((tmp_path / "page.html").read_text())
    (tmp_path / "people" / "types.json").write_text(json.dumps({"rounds": [{"moved": "far"}]}))
    with pytest.raises(PluralignError, match=r"types\.json, rounds\[0\]\.moved: found 'far'"):
        report([tmp_path / "people"], tmp_path / "page.html")
