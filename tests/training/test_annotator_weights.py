"""The weights of annotators reach the judgments of every trainer that reads judgments."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.judgments import Judgments
from pluralign.judgments.scales import BUILT_IN_SCALES
from pluralign.training.objectives import OBJECTIVES

SETTINGS = {
    "report_to": "none",
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
    "per_device_train_batch_size": 8,
}


@pytest.fixture
def weights(tmp_path):
    names = [f"w{number}" for number in range(8)]
    pq.write_table(pa.table({"annotator": names, "weight": np.linspace(0, 1, 8)}), tmp_path / "annotators.parquet")
    return dict(zip(names, np.linspace(0, 1, 8), strict=True)), str(tmp_path / "annotators.parquet")


def trainer_of(objective, args, model, judgments):
    return OBJECTIVES[objective].trainer(str(model), args=args, train_dataset=judgments)


@pytest.mark.parametrize("objective", ["bradley-terry", "plackett-luce", "more", "dpo", "em-dpo", "pm-dpo"])
def test_weights_arrive_in_the_items(objective, weights, town_rows, tiny_model, tmp_path):
    of, file = weights
    rows = [{**row, "weight": 1 + index % 2} for index, row in enumerate(town_rows)]
    more = {"types": 2} if objective == "em-dpo" else {}
    args = OBJECTIVES[objective].config(str(tmp_path / "run"), annotator_weights=file, **SETTINGS, **more)
    trainer = trainer_of(objective, args, tiny_model, Judgments.from_rows(rows))
    items = trainer.train_items
    expected = [rows[row]["weight"] * of.get(rows[row]["annotator"], 1.0) for row in items.row]
    assert np.allclose(items.weight, expected)
    assert (items.weight == 0).any()
    batch = trainer.data_collator(list(range(16)))
    assert np.allclose(batch["weight"], expected[:16])
    assert file in type(trainer).input_files(args)
    assert file not in type(trainer).input_files(OBJECTIVES[objective].config(str(tmp_path / "run"), **SETTINGS))


def test_votes_on_labels_are_weighted(tiny_model, tmp_path):
    pq.write_table(pa.table({"annotator": ["a", "b"], "weight": [0.25, 0.0]}), tmp_path / "annotators.parquet")
    scale = BUILT_IN_SCALES["agree-pass-disagree"]
    rows = [
        {"prompt": "Buses?", "responses": ["More"], "labels": [label], "annotator": name}
        for name, label in (("a", "agree"), ("b", "disagree"), ("c", "pass"))
    ]
    args = OBJECTIVES["dprm"].config(
        str(tmp_path / "run"), annotator_weights=str(tmp_path / "annotators.parquet"), **SETTINGS,
    )  # fmt: skip
    trainer = trainer_of("dprm", args, tiny_model, Judgments.from_rows(rows, scale))
    assert trainer.crowd.votes == pytest.approx([1.25])
    share = dict(zip(scale.labels, trainer.crowd.distribution[0], strict=True))
    assert share["agree"] == pytest.approx(0.2, abs=1e-6)
    assert share["disagree"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="annotator_weights"):
        OBJECTIVES["dprm"].config(
            str(tmp_path / "run"), annotator_weights="annotators.parquet", vote_state="state", **SETTINGS
        )
