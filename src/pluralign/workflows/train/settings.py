"""A YAML file and flags as the values of a config, each checked by type and choice before anything is loaded."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from pluralign.core.errors import PluralignError, nearest, one_line
from pluralign.core.numbers import exact_number, finite_float
from pluralign.core.yaml_lines import parse_yaml, read_yaml_lines
from pluralign.judgments.paths import is_present, named_files


@dataclass
class RunKeys:
    """Keys of every training config besides those of the config classes."""

    objective: str = field(metadata={"help": "What to train and by which method."})
    model_name_or_path: str = field(metadata={"help": "The model to start from: a folder or hub id."})
    train_files: list[str] = field(
        metadata={"help": "Files of judgments to train on, folders or patterns of them, or hf:owner/name:split."}
    )
    output_dir: str = field(metadata={"help": "Output folder of the run."})
    eval_files: list[str] | None = field(default=None, metadata={"help": "The same, held out, to evaluate on."})
    label_scale: str | None = field(
        default=None, metadata={"help": "Label scale of files that do not store one: a built-in name or a YAML file."}
    )
    rename: dict[str, Any] | list[str] | None = field(
        default=None, metadata={"help": "New names of columns: {annotator_id: annotator}, or annotator_id=annotator."}
    )


NOT_SET_BY_USERS = ("do_train", "do_eval", "do_predict", "remove_unused_columns", "resume_from_checkpoint")
"""Fields of the config classes that the command sets itself."""


DEFAULT_MODEL_KEYS: dict[str, Any] = {"lora_dropout": 0.0}
"""Keys of TRL's `ModelConfig` with another default. Without dropout several processes train as one does."""

_SECRET = re.compile(r"(hub_|auth_|access_)?token|use_auth_token|.*(password|secret|api_key)")

_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),
    **dict.fromkeys(
        (
            "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "lora_r",
            "lora_alpha", "save_total_limit", "max_length", "max_completion_length", "generation_batch_size",
            "num_iterations",
        ),
        (1, 2**31 - 1),
    ),
    "num_generations": (2, 2**31 - 1),
    "lora_dropout": (0, 0.999),
    **dict.fromkeys(
        (
            "learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon", "dataloader_num_workers",
            "warmup_steps", "warmup_ratio", "temperature",
        ),
        (0, 1e30),
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (0, 1)),
    "num_train_epochs": (1e-9, 1e9),
    "max_steps": (-1, 2**62),
    **dict.fromkeys(("logging_steps", "save_steps", "eval_steps"), (1e-9, 1e12)),
}  # fmt: skip
"""The least and the greatest value of keys whose own classes do not check them."""


@dataclass(frozen=True)
class Given:
    """A value and its place: a line of the file, or a flag."""

    value: Any
    place: str
    flag: bool = False

    def complain(self, message: str) -> PluralignError:
        """An error that names the place."""
        return PluralignError(f"{self.place}: {message}")


def read_yaml(path: Path) -> dict[str, Given]:
    """The keys of a YAML file with their values and lines.

    Raises:
        PluralignError: the file is missing, not valid YAML, not a mapping, or has a key twice.
    """
    root = read_yaml_lines(path)
    if not isinstance(root.content, dict):
        raise root.complain("expected keys and values, like 'objective: plackett-luce'")
    return {str(key): Given(value.plain(), f"{value.place}, key '{value.key}'") for key, value in root.content.items()}


def read_flags(arguments: Sequence[str]) -> dict[str, Given]:
    """`--key value`, `--key=value` and `--switch` by key; `--learning-rate` is `learning_rate`.

    Raises:
        PluralignError: a word is not a flag or the value of one, or a flag is given twice.

    Examples:
        >>> {key: given.value for key, given in read_flags(["--seed", "1", "--bf16"]).items()}
        {'seed': '1', 'bf16': 'true'}
    """
    flags: dict[str, Given] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise PluralignError(f"found {one_line(word)}, expected a flag like --learning_rate 1e-5")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        key = name.replace("-", "_")
        if key in flags:
            raise PluralignError(f"--{name}: is given twice: give it once; the values of a list are joined: a,b")
        flags[key] = Given(value, f"--{name}", flag=True)
    return flags


BY_TYPE = {"objective": "em-dpo", "mode": "flattened", "beta": 1.0}
"""What `matching_by: type` of `pm-dpo` stands for: EM-DPO's types, with policies that match their own people."""


def by_type(given: Mapping[str, Given]) -> dict[str, Given]:
    """The keys of a config, with `matching_by: type` as the settings that it stands for.

    Examples:
        >>> given = {"objective": Given("pm-dpo", "line 1"), "matching_by": Given("type", "line 2")}
        >>> {key: entry.value for key, entry in by_type(given).items()}
        {'objective': 'em-dpo', 'mode': 'flattened', 'beta': 1.0}
    """
    kept, how = dict(given), given.get("matching_by")
    if how is None or how.value != "type" or "objective" not in given or given["objective"].value != "pm-dpo":
        return kept
    del kept["matching_by"]
    own = {key: kept[key] for key in BY_TYPE if key in kept and key != "objective"}
    return kept | {key: Given(value, how.place, how.flag) for key, value in BY_TYPE.items()} | own


def check_present(given: Mapping[str, Given], required: Sequence[str], place: str) -> None:
    """Raise a `PluralignError` for a key that is missing."""
    for key in required:
        if key not in given:
            raise PluralignError(f"{place}: the key '{key}' is missing")


def check_files(given: Mapping[str, Given]) -> None:
    """Raise a `PluralignError` for a file of judgments that does not exist."""
    for key in ("train_files", "eval_files"):
        names = (check_value(given[key], fields_of(RunKeys)[key][0]) if key in given else None) or []
        try:
            files = named_files(names)
        except PluralignError as fault:
            raise given[key].complain(str(fault)) from fault
        for file in files:
            if not is_present(file):
                raise given[key].complain(f"no such file: {file}")


_OTHER_NAMES = {
    "model": "model_name_or_path", "model_name": "model_name_or_path", "dataset": "train_files",
    "dataset_name": "train_files", "train_file": "train_files", "eval_file": "eval_files",
    "lr": "learning_rate", "epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size",
}  # fmt: skip
"""What other tools call our keys."""


def check_known(given: Mapping[str, Given], known: Sequence[str]) -> None:
    """Raise a `PluralignError` for the first unknown key, with the nearest known one."""
    for key, value in given.items():
        if key not in known:
            ours = _OTHER_NAMES.get(key)
            hint = f": the key is {ours}" if ours in known else nearest(key, known)
            raise value.complain(f"unknown key '{key}'{hint}")


def check_ranges(given: Mapping[str, Given], values: Mapping[str, Any]) -> None:
    """Raise a `PluralignError` for the first value that is out of range, and for reports to what is not installed."""
    for key, (least, most) in _RANGES.items():
        value = values.get(key)
        if key in given and isinstance(value, int | float) and not least <= value <= most:
            bounds = f"a number from {least:g} to {most:g}" if most < 1e9 else f"{least:g} or more"
            raise given[key].complain(f"found {value}, expected {bounds}")
    if "report_to" in given:
        from transformers.integrations import get_available_reporting_integrations
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        reports = sorted(INTEGRATION_TO_CALLBACK)
        wanted = values["report_to"]
        for name in [wanted] if isinstance(wanted, str) else wanted or ():
            if name not in (*reports, "all", "none"):
                known = ", ".join((*reports, "all", "none"))
                raise given["report_to"].complain(f"found {name!r}, expected some of {known}{nearest(name, reports)}")
            if name in reports and name not in get_available_reporting_integrations():
                raise given["report_to"].complain(f"found {name!r}, which is not installed: pip install {name}")


def redacted(key: str, value: Any) -> Any:
    """A setting as a run stores it: without secrets, such as `hub_token`, at any depth.

    Examples:
        >>> redacted("hub_token", "hf_abc"), redacted("model_init_kwargs", {"token": "hf_abc", "num_labels": 1})
        ('(not stored)', {'token': '(not stored)', 'num_labels': 1})
    """
    if isinstance(value, dict):
        return {name: redacted(str(name), inner) for name, inner in value.items()}
    return "(not stored)" if isinstance(value, str) and _SECRET.fullmatch(key) else value


def fields_of(kind: type) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """The arguments of a config dataclass: name to (type, field)."""
    hints = typing.get_type_hints(kind) | {"fsdp": bool | str | None}  # declared as text, and true is what it takes
    return {entry.name: (hints[entry.name], entry) for entry in dataclasses.fields(kind) if entry.init}


def check_value(given: Given, hint: Any, choices: Sequence[Any] | None = None) -> Any:
    """A value converted to its field's type.

    Text is read as a number where one is expected (to YAML, `1e-6` is text), and a flag's text as any type.

    Raises:
        PluralignError: the value does not fit; names the place, what was found, and what was expected.

    Examples:
        >>> check_value(Given("1e-6", "config.yaml, line 3, key 'learning_rate'"), float)
        1e-06
    """
    try:
        value = _as_type(given.value, hint, given.flag)
        return value if choices is None or value is None else _choice(value, choices)
    except _Mismatch as expected:
        raise given.complain(f"found {one_line(given.value)}, expected {expected}") from None


class _Mismatch(Exception):
    """The message says what was expected."""


def _as_type(value: Any, hint: Any, flag: bool) -> Any:
    if hint is Any:
        return value
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return _choice(value, inner)
    if origin in (Union, types.UnionType):
        return _any_of(value, inner, flag)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choice(value, [member.value for member in hint])
    if origin in (list, tuple):
        return _list(value, inner, flag)
    if hint in (dict, list) or origin is dict:
        return _parsed(value, dict if hint is not list else list)
    return _scalar(value, hint, flag)


def _any_of(value: Any, kinds: Sequence[Any], flag: bool) -> Any:
    null_words = ("null", "None") if str in kinds else ("null", "None", "none")  # `--report_to none` is a name
    if value is None or (flag and value in null_words):
        if type(None) in kinds:
            return None
        raise _Mismatch("a value")
    kinds = [kind for kind in kinds if kind is not type(None)]
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    # `SchedulerType | str` means the names of SchedulerType, written as text.
    kinds = enums or sorted(kinds, key=lambda kind: kind is str)
    expected = []
    for kind in kinds:
        try:
            return _as_type(value, kind, flag)
        except _Mismatch as mismatch:
            expected.append(str(mismatch))
    raise _Mismatch(" or ".join(dict.fromkeys(expected)))


def _choice(value: Any, choices: Sequence[Any]) -> Any:
    if value in choices:
        return value
    names = [str(choice) for choice in choices]
    raise _Mismatch(f"one of {', '.join(names)}{nearest(str(value), names)}")


def _list(value: Any, inner: Sequence[Any], flag: bool) -> Any:
    if flag and isinstance(value, str):
        value = _parsed(value, list) if value.startswith("[") else value.split(",")
    if not isinstance(value, list):
        raise _Mismatch("a list, like [a, b]")
    return [_as_type(item, inner[0] if inner else Any, flag) for item in value]


def _parsed(value: Any, kind: type) -> Any:
    """A dict or a list, also from text in YAML."""
    if isinstance(value, str):
        try:
            value = parse_yaml(value, "value").plain()
        except PluralignError as fault:
            raise _Mismatch("YAML") from fault
    if not isinstance(value, kind):
        raise _Mismatch("keys and values, like {key: value}" if kind is dict else "a list, like [a, b]")
    return value


def _scalar(value: Any, hint: Any, flag: bool) -> Any:
    if hint in (int, float):
        return _number(value, hint)
    if hint is bool and flag and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise _Mismatch({bool: "true or false", str: "text"}.get(hint, f"a value of type {hint}"))


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    if kind is float and value in (math.inf, -math.inf, ".inf", "inf"):
        return float(str(value).removeprefix("."))
    number = exact_number(value) if kind is int else finite_float(value)
    if number is None or (kind is int and number % 1):
        raise _Mismatch("a whole number" if kind is int else "a number")
    return kind(number)


def plain(value: Any) -> Any:
    """A config's value as plain values, which YAML can write and read."""
    if isinstance(value, enum.Enum):
        return value.value
    return json.loads(json.dumps(value, default=str))
