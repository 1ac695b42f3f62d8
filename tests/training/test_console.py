"""What a trainer shows, used from Python: a line for each log, nothing of the libraries, unless its user chose."""

import logging
import re

import datasets
import peft
import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging
from trl import RichProgressCallback

from matching_setup import offline_trainer
from objective_runs import LORA, settings, write_data
from pluralign.core.progress import CONSOLE
from pluralign.judgments import read
from pluralign.scoring.library_output import quiet_libraries
from pluralign.training.console import ConsoleCallback
from pluralign.training.objectives import OBJECTIVES
from processes import in_two_processes


@pytest.fixture(scope="module")
def data(tmp_path_factory, town_rows, tiny_model):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, town_rows, tiny_model)
    return folder


def make(objective, data, model, folder, callbacks=None, **values):
    """A trainer of an objective, made as in Python, with an adapter."""
    given = settings(objective, data, model, folder, max_steps=2, **values)
    files = given.pop("train_files")
    for key in ("objective", "model_name_or_path", *LORA):
        given.pop(key, None)
    if "disable_tqdm" not in values:
        del given["disable_tqdm"]
    entry = OBJECTIVES[objective]
    adapter = peft.LoraConfig(r=2, lora_dropout=0.0, target_modules="all-linear")
    return entry.trainer(
        str(model), args=entry.config(**given), train_dataset=read(files), peft_config=adapter, callbacks=callbacks
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_trainer_says_a_line_for_each_log_and_nothing_of_the_libraries(
    objective, data, tiny_model, tmp_path, capfd
):
    trainer = make(objective, data, tiny_model, tmp_path / "run", save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model()
    said = "".join(capfd.readouterr())
    assert re.search(r"^step \d of \d: loss -?\d", said, re.MULTILINE)
    assert "{'" not in said
    assert not re.search(r"it/s|examples/s|s/it|\r", said)
    assert (tmp_path / "run" / "adapter_config.json").exists() or objective == "em-dpo"
    for card in tmp_path.rglob("README.md"):  # TRL writes one with its checkpoints
        assert "More Information Needed" not in card.read_text(encoding="utf-8"), card


@pytest.mark.parametrize(
    ("callbacks", "values", "shows"),
    [
        (None, {}, [ConsoleCallback]),
        (None, {"disable_tqdm": True}, [ConsoleCallback]),
        (None, {"disable_tqdm": False}, [ProgressCallback]),
        ([PrinterCallback()], {}, [PrinterCallback]),
        ([RichProgressCallback], {}, [RichProgressCallback]),
        ([ProgressCallback], {}, [ProgressCallback]),
    ],
)
def test_who_chooses_what_is_shown_gets_it(callbacks, values, shows, data, tiny_model, tmp_path):
    trainer = make("dpo", data, tiny_model, tmp_path, callbacks, **values)
    kinds = (ConsoleCallback, ProgressCallback, PrinterCallback, RichProgressCallback)
    assert [type(one) for one in trainer.callback_handler.callbacks if isinstance(one, kinds)] == shows


def test_the_libraries_are_as_they_were_afterwards():
    def state():
        loading, mapping = transformers_logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
        return loading, mapping, are_progress_bars_disabled()

    before = state()
    with pytest.raises(KeyError), quiet_libraries():
        assert not transformers_logging.is_progress_bar_enabled()
        assert datasets.are_progress_bars_disabled()
        assert are_progress_bars_disabled() == before[2]  # bars of downloads
        raise KeyError
    assert state() == before


def test_a_verbose_console_shows_the_bars_of_the_libraries(monkeypatch):
    before = transformers_logging.is_progress_bar_enabled()
    monkeypatch.setattr(CONSOLE, "verbose", True)
    with quiet_libraries():
        assert transformers_logging.is_progress_bar_enabled() == before


def test_a_mode_without_a_length_of_its_own_is_warned_of_once(data, tiny_model, tmp_path):
    def warned():
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        own = logging.getLogger("pluralign")
        own.addHandler(handler)
        try:
            offline_trainer(str(tiny_model), read(data / "ranked-train.parquet"), tmp_path, mode="pm", length_checks=0)
        finally:
            own.removeHandler(handler)
        return sum("their length tends to" in line for line in lines)

    assert warned() == 1
    assert in_two_processes(warned, tmp_path) == [1, 0]
