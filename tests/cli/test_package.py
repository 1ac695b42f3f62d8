"""The package as others get it: a wheel that installs and runs, quick to answer."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


def test_the_built_wheel_installs_and_runs(wheel, tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--target",
            str(site),
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    # -I and an own path: the wheel's package is found, not the one in the source tree.
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import pluralign; print(pluralign.__file__); "
    code += "sys.argv = ['pluralign', '--version']; from pluralign.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    where, version = done.stdout.split("\n")[:2]
    assert Path(where).is_relative_to(site)
    assert version.startswith("pluralign 0.")
    assert (site / "bin" / "pluralign").exists()


def test_the_wheel_holds_types_licence_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"pluralign/py.typed", "pluralign/__init__.pyi"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "bench", "docs"))]


@pytest.mark.parametrize("words", [["--help"], ["import", "--help"], ["split", "--help"], ["train", "--help"]])
def test_quick_commands_load_no_heavy_library(words):
    code = f"import sys; sys.argv = ['pluralign', *{words!r}]\n"
    code += "from pluralign.cli.main import main\ntry: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
    code += "heavy = {'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wrong_config_is_refused_before_heavy_libraries_load(tmp_path):
    good = f"objective: dpo\nmodel_name_or_path: m\noutput_dir: o\ntrain_files: [{tmp_path / 't.yaml'}]\n"
    (tmp_path / "t.yaml").write_text(good)
    for text, expected in (
        (good.replace("t.yaml", "gone.parquet"), "no such file: "),
        (good.replace("output_dir: o\n", ""), "the key 'output_dir' is missing"),
        (good.replace("dpo", "dop"), "found 'dop', expected"),
        (good + "betta: 1\n", "unknown key 'betta' (did you mean 'beta'?)"),
        (good.replace("model_name_or_path: m", "model: m"), "unknown key 'model': the key is model_name_or_path"),
        (good.replace("train_files", "dataset_name"), "unknown key 'dataset_name': the key is train_files"),
        (good.replace("t.yaml", "gone.parquet") + "betta: 1\n", "unknown key 'betta' (did you mean 'beta'?)"),
        (good.replace("dpo", "em-dpo") + "lora_rr: 1\n", "unknown key 'lora_rr' (did you mean 'lora_r'?)"),
    ):
        (tmp_path / "c.yaml").write_text(text)
        code = f"import sys; sys.argv = ['pluralign', 'train', {str(tmp_path / 'c.yaml')!r}]\n"
        code += "from pluralign.cli.main import main\ntry: main()\nexcept SystemExit as e: assert e.code == 2, e.code\n"
        code += "heavy = {'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)\nassert not heavy, heavy"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stderr


def test_an_import_loads_no_heavy_library(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "Tea?", "chosen": "yes", "rejected": "no"}\n')
    words = ["import", str(tmp_path / "in.jsonl"), "--format", "trl", "--out", str(tmp_path / "out.parquet")]
    code = f"import sys; sys.argv = ['pluralign', *{words!r}]\n"
    code += "from pluralign.cli.main import main\ntry: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
    code += "heavy = {'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.parquet").exists()


def test_public_names_are_there_and_unknown_ones_are_named():
    import pluralign

    for name in pluralign.__all__:
        assert getattr(pluralign, name) is not None
        assert name in dir(pluralign)
    assert pluralign.__version__ == importlib.metadata.version("pluralign")
    assert set(dir(pluralign)) == {*pluralign.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pluralign.nothing
