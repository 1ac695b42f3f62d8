"""A misspelt model folder is one line that names the nearest folder, at once and without the hub where possible."""

import subprocess
import sys

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError

from pluralign.core.errors import PluralignError
from pluralign.core.model_names import check_model_name, nearest_folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with `model` and `town/language-model`."""
    (tmp_path / "model").mkdir()
    (tmp_path / "town" / "language-model").mkdir(parents=True)
    (tmp_path / "town" / "train.parquet").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "near"),
    [("./modell", "model"), ("modell", "model"), ("town/langage-model", "town/language-model"),
     ("twon/language-modl", "town/language-model"), ("../x/model", None), ("town/train", None), ("gpt2", None)],
)  # fmt: skip
def test_the_nearest_folder_is_found_part_by_part(name, near, place):
    assert nearest_folder(name) == near


def test_absolute_paths_and_those_above(place):
    assert nearest_folder(place / "modle") == str(place / "model")
    assert nearest_folder("town/../modle") == "town/../model"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./modell", "./modell: no such folder (did you mean 'model'?)"),
        ("modell", "modell: no such folder, and no such model in the cache of the hub (did you mean 'model'?)"),
        ("some/where/else", "some/where/else: no such folder"),
        ("~/model", "~/model: no such folder"),
        ("town/langage-model/", "town/langage-model/: no such folder (did you mean 'town/language-model'?)"),
    ],
)
def test_what_is_missing_is_one_line(name, message, place):
    with pytest.raises(PluralignError) as told:
        check_model_name(name)
    assert str(told.value) == message


def test_folders_and_possible_ids_pass(place):
    for name in ("model", "./town/language-model", place / "model", "gpt2", "meta-llama/Llama-3.2-1B"):
        check_model_name(name)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, None),
        (TimeoutError(), "the hub cannot be reached"),
        (HFValidationError(), "no such model on the hub"),
    ],
)
def test_the_hub_is_asked_where_a_folder_has_nearly_the_name(answer, message, place, monkeypatch):
    def model_info(self, name, timeout):
        assert name == "modell"
        if answer is not None:
            raise answer

    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    if message is None:
        check_model_name("modell")
        return
    with pytest.raises(PluralignError, match=message):
        check_model_name("modell")


COMMANDS = [
    ["evaluate", "./modell", "x.parquet", "--out", "o"],
    ["evaluate", "model", "x.parquet", "--out", "o", "--reward", "./modell"],
    ["score", "./modell", "x.parquet", "--out", "o.parquet"],
    ["best-of", "model", "x.parquet", "--reward", "./modell", "--out", "o.parquet"],
    ["calibrate", "./modell", "x.parquet"],
    ["route", "./modell", "x.parquet", "--out", "o.parquet"],
    ["aggregate", "./modell", "--out", "o"],
    ["aggregate", "model", "--out", "o", "--policy", "mine=./modell"],
    ["report", "./modell", "--out", "o.html"],
    ["audit", "x.parquet", "--features", "./modell", "--out", "o"],
    ["train", "run.yaml", "--model_name_or_path", "./modell"],
    ["train", "run.yaml", "--model_name_or_path", "model", "--reward_model", "./modell"],
]


def test_every_command_names_the_folder_before_torch_is_imported(place):
    (place / "x.parquet").write_bytes(b"")
    (place / "run.yaml").write_text("objective: pm-rlhf\ntrain_files: [x.parquet]\noutput_dir: run\n")
    script = (
        "import contextlib, io, sys\nfrom pluralign.cli.main import main\n"
        f"for words in {COMMANDS!r}:\n"
        "    sys.argv = ['pluralign', *words]\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.suppress(SystemExit):\n"
        "        main()\n"
        "    said = told.getvalue()\n"
        "    assert said.count('\\n') == 1, (words, said)\n"
        "    assert \"modell: no such folder (did you mean 'model'?)\" in said, (words, said)\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
