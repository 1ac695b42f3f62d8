"""Recalibrations stored with a model: applied to what they are meant for, kept, and never half or of another model."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from scipy.special import expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.recalibration import Recalibration
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.recalibrated import CALIBRATION, read_recalibration, write_recalibration
from pluralign.scoring.reward_models import RewardModel, build_reward_model, load_reward_model
from rewarded import write_reward_model

PROMPT, RESPONSES = "Say something about tea:", ["good cat", "bad dog in the rain and the sun", "milk"]
HALVED = Recalibration("temperature", temperature=2.0, record={"pairs": 7, "files": {"a.parquet": "0f"}})
CURVE = Recalibration("isotonic", knots=((0.1, 0.0), (0.5, 1.0), (2.0, 1.5)))


@pytest.fixture
def folder(tiny_model, tmp_path):
    return write_reward_model(tiny_model, tmp_path / "reward")


def load(folder, **options):
    return load_reward_model(folder, device="cpu", **options)


def test_a_temperature_divides_rewards_and_a_curve_leaves_them(folder):
    raw = load(folder)
    rewards = raw.score(PROMPT, RESPONSES)
    assert raw.recalibration is raw.temperature is raw.margin_map is None
    items = items_of_texts([PROMPT], [RESPONSES])
    write_recalibration(folder, HALVED)
    halved = load(folder)
    assert (halved.recalibration, halved.temperature, halved.margin_map) == (HALVED, 2.0, None)
    np.testing.assert_array_equal(halved.score(PROMPT, RESPONSES), rewards / 2)
    np.testing.assert_array_equal(halved.score_items(items), rewards / 2)
    np.testing.assert_array_equal(halved.values(halved.tokenize(items)), rewards), "what trainers read stays raw"
    write_recalibration(folder, CURVE)
    curved = load(folder)
    assert (curved.temperature, curved.margin_map) == (None, CURVE)
    np.testing.assert_array_equal(curved.score(PROMPT, RESPONSES), rewards)
    np.testing.assert_array_equal(load(folder, raw=True).score(PROMPT, RESPONSES), rewards)
    assert load(folder, raw=True).recalibration is None


@pytest.mark.parametrize("recalibration", [None, HALVED, CURVE])
def test_probabilities_go_through_whichever_map_there_is(recalibration, folder):
    raw = load(folder)
    rewards = raw.score(PROMPT, RESPONSES)
    found = replace(raw, recalibration=recalibration).preference_probability(PROMPT, RESPONSES)
    assert found.shape == (3, 3)
    for i in range(3):
        for j in range(3):
            margin = rewards[i] - rewards[j]
            expected = margin if recalibration is None else recalibration([margin])[0]
            # Halves are halved before or after the difference: a rounding error of float64.
            assert found[i, j] == pytest.approx(expit(expected), rel=1e-12)
    np.testing.assert_allclose(found + found.T, 1.0, rtol=1e-15)
    assert found[0, 0] == 0.5


@pytest.mark.parametrize("recalibration", [HALVED, CURVE])
def test_a_model_saved_again_keeps_its_recalibration(recalibration, folder, tmp_path):
    write_recalibration(folder, recalibration)
    load(folder).save(tmp_path / "copy")
    assert (tmp_path / "copy" / CALIBRATION).read_bytes() == (folder / CALIBRATION).read_bytes()
    again = load(tmp_path / "copy")
    assert again.recalibration == recalibration
    assert again.recalibration.record == recalibration.record


def test_another_model_saved_in_the_folder_does_not_take_it_over(folder):
    write_recalibration(folder, HALVED)
    load(folder, raw=True).save(folder)
    assert not (folder / CALIBRATION).exists()
    assert load(folder).recalibration is None


def test_an_adapter_has_its_own(folder, tmp_path):
    write_recalibration(folder, HALVED)
    built = build_reward_model(folder)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(built.model, peft.LoraConfig(task_type="SEQ_CLS", init_lora_weights=False))
    RewardModel(adapted, built.tokenizer, built.limits).save(tmp_path / "adapter")
    plain = load(tmp_path / "adapter")
    assert plain.recalibration is None, "that of the base is of other rewards"
    write_recalibration(tmp_path / "adapter", Recalibration("temperature", temperature=4.0))
    found = load(tmp_path / "adapter")
    np.testing.assert_array_equal(found.score(PROMPT, RESPONSES), plain.score(PROMPT, RESPONSES) / 4)
    found.save(tmp_path / "copy")
    assert load(tmp_path / "copy").temperature == 4.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a recalibration"),
        (b'{"method": "temperature", "tem', "is not a recalibration"),
        (b"\xff\xfe", "is not a recalibration"),
        (b'{"method": "temperature", "temperature": NaN}', "temperature: found nan"),
        (b'{"method": "isotonic", "knots": [[2, 1], [1, 2]]}', "knots[1]: found (1, 2)"),
        (b"[]", "found [], expected the method"),
    ],
)
def test_a_broken_file_is_named_with_its_mend(content, message, folder):
    (folder / CALIBRATION).write_bytes(content)
    with pytest.raises(PluralignError) as complaint:
        load(folder)
    assert str(complaint.value).startswith(f"{folder / CALIBRATION}: is not a recalibration (")
    assert message in str(complaint.value)
    assert "run pluralign calibrate again, or with --remove" in str(complaint.value)
    assert load(folder, raw=True).recalibration is None


def test_a_killed_write_leaves_the_file_of_before(tmp_path):
    write_recalibration(tmp_path, HALVED)
    before = (tmp_path / CALIBRATION).read_bytes()
    code = (
        "import os, sys; os.fsync = lambda file: os._exit(9)\n"
        "from pluralign.evaluation.calibration.recalibration import Recalibration\n"
        "from pluralign.scoring.recalibrated import write_recalibration\n"
        f"write_recalibration({str(tmp_path)!r}, Recalibration('temperature', temperature=3.0))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / CALIBRATION).read_bytes() == before
    write_recalibration(tmp_path, Recalibration("temperature", temperature=3.0))
    assert read_recalibration(tmp_path).temperature == 3.0
    assert [file.name for file in tmp_path.iterdir()] == [CALIBRATION], "the half file is gone"
