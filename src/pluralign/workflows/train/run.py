"""`train`: from one YAML file to a trained model in a run folder; an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers.utils import logging
from trl import ModelConfig

from pluralign.core.errors import PluralignError, TrainingError
from pluralign.core.files import atomic_folder, disk_errors
from pluralign.core.locks import folder_lock
from pluralign.core.processes import names_lost_process
from pluralign.core.progress import say
from pluralign.core.runs import file_fingerprints, finish_run, is_begun, read_metrics, run_state, start_run
from pluralign.judgments.paths import named_files
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import column_names
from pluralign.reports.cards import run_card
from pluralign.scoring.measured import Measured
from pluralign.scoring.recalibrated import remove_recalibration
from pluralign.training.checkpoints import newest_checkpoint
from pluralign.training.objective import TrainingRun
from pluralign.training.objectives import OBJECTIVES
from pluralign.workflows.train.early import REQUIRED
from pluralign.workflows.train.settings import (
    DEFAULT_MODEL_KEYS,
    NOT_SET_BY_USERS,
    Given,
    RunKeys,
    by_type,
    check_files,
    check_known,
    check_present,
    check_ranges,
    check_value,
    fields_of,
    plain,
    read_flags,
    read_yaml,
    redacted,
)

logger = logging.get_logger(__name__)


def train(config: str | os.PathLike[str], flags: Sequence[str] = ()) -> dict[str, Any]:
    """Train as a YAML file says, overridden by flags like `["--learning_rate", "1e-5"]`.

    A run that was killed goes on from its newest whole checkpoint and ends as an undisturbed one would; a finished
    run is left as it is.

    Args:
        config: the YAML file (docs: training).
        flags: any of its keys.

    Returns:
        The run's metrics, as in its `metrics.json`.

    Raises:
        PluralignError: a key or value is wrong (with its line), a file is missing or damaged, or the folder
            holds a run of another config.
    """
    with _own_environment():
        return run(check(read_yaml(Path(config)), read_flags(flags), str(config)))


@contextlib.contextmanager
def _own_environment() -> Iterator[None]:
    """Undo what the settings of sharding write into the environment, so that the next run does not inherit it."""
    before = {name: value for name, value in os.environ.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
            del os.environ[name]
        os.environ.update(before)


def check(given: Mapping[str, Given], flags: Mapping[str, Given], place: str = "config") -> TrainingRun:
    """Check the type and choices of every key; no model or data is loaded."""
    given = by_type({**given, **flags})
    needed = list(REQUIRED)
    if "objective" in given:
        objective = check_value(given["objective"], str, choices=tuple(OBJECTIVES))
        kind, trainer = OBJECTIVES[objective].config, OBJECTIVES[objective].trainer
        needed += trainer.required_keys
    check_present(given, needed, place)
    check_files(given)
    own = {name: hint for name, (hint, _) in fields_of(RunKeys).items()}
    model_fields, fields = fields_of(ModelConfig), fields_of(kind)
    hidden = (*NOT_SET_BY_USERS, *trainer.hidden_keys)
    keys = [key for key in {**own, **model_fields, **fields} if key not in hidden]
    check_known(given, keys)
    values = {key: check_value(given[key], hint) for key, hint in own.items() if key in given}
    model_values: dict[str, Any] = {}
    arg_values: dict[str, Any] = {}
    for key, entry in given.items():
        # A field of both (trust_remote_code in TRL's configs) goes to both.
        for known, checked in ((model_fields, model_values), (fields, arg_values)):
            if key in known and key not in own:
                hint, field = known[key]
                checked[key] = check_value(entry, hint, field.metadata.get("choices"))
    for key, value in trainer.fixed_model_keys.items():
        if model_values.setdefault(key, value) != value:
            raise given[key].complain(f"the objective {objective} needs {key}: {plain(value)}: leave this out")
    defaults = {**DEFAULT_MODEL_KEYS, **trainer.default_model_keys}
    model_values = {**defaults, **model_values, "model_name_or_path": values["model_name_or_path"]}
    arg_values["output_dir"] = values["output_dir"]
    check_ranges(given, {**model_values, **arg_values})
    for key in given:
        if key.startswith("lora_") and not model_values.get("use_peft"):
            raise given[key].complain("has no effect without an adapter: set use_peft: true, or leave this out")
    with disk_errors(values["output_dir"]):
        model_folder, out = (Path(os.path.realpath(values[key])) for key in ("model_name_or_path", "output_dir"))
    if model_folder.is_dir() and model_folder.is_relative_to(out):
        name = values["model_name_or_path"]
        raise given["output_dir"].complain(f"is or holds the model {name}: choose another folder")
    if "rename" in values:
        try:
            values["rename"] = column_names(values["rename"])
        except PluralignError as fault:
            raise given["rename"].complain(str(fault)) from fault
    if arg_values.get("eval_strategy", "no") != "no" and not values.get("eval_files"):
        raise given["eval_strategy"].complain("evaluating during training needs eval_files")
    try:
        model, args = ModelConfig(**model_values), kind(**arg_values)
    except (ValueError, ImportError, KeyError) as fault:
        raise PluralignError(f"{place}: {' '.join(str(fault).split())}") from fault
    for key in {"train_files", "eval_files"} & {*values}:
        values[key] = named_files(values[key] or [])
    resolved = {**values, **_resolved(kind, arg_values), **_resolved(ModelConfig, model_values)}
    return TrainingRun(
        objective,
        values["train_files"],
        values.get("eval_files") or [],
        values.get("label_scale"),
        values.get("rename", {}),
        Path(values["output_dir"]),
        model,
        args,
        {key: redacted(key, value) for key, value in resolved.items() if value is not None},
    )


def _resolved(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a config, as given or by default, as plain values."""
    resolved = {}
    for name, (_, field) in fields_of(kind).items():
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        resolved[name] = plain(values.get(name, default))
    return resolved


def run(job: TrainingRun) -> dict[str, Any]:
    """Run a checked config: read, train or go on training, save, evaluate."""
    state = PartialState()
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked != state.num_processes:
        raise PluralignError(
            f"the launcher started {asked} processes, and each would train alone (in groups of {state.num_processes}): "
            "to train on CPUs, set use_cpu: true (--use_cpu)"
        )
    several = state.num_processes > 1
    then = "the same command continues from the newest checkpoint"
    with (
        folder_lock(job.folder) if state.is_main_process else contextlib.nullcontext(),
        names_lost_process("training", then) if several else contextlib.nullcontext(),
    ):
        trainer, metrics = _run(job, state)
    if trainer is not None and job.args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def _stopped(folder: Path, step: int) -> str:
    """What a person who interrupted a run is told."""
    last = newest_checkpoint(folder, remove_halves=False)
    if last is not None:
        goes_on = f"continues from step {last.name.rpartition('-')[2]}"
    else:
        goes_on = "goes on where it was" if is_begun(folder) else "starts again"
    return f"stopped at step {step}; the same command {goes_on}"


def _run(job: TrainingRun, state: PartialState) -> tuple[Any, dict[str, Any]]:
    """The trainer, `None` if the run was finished before, and the metrics of the run."""
    kind = OBJECTIVES[job.objective].trainer
    train_data = Inputs(job.train_files, job.rename)
    eval_data = Inputs(job.eval_files, job.rename) if job.eval_files else None
    inputs = train_data.fingerprints() | ({} if eval_data is None else eval_data.fingerprints())
    inputs |= file_fingerprints(kind.input_files(job.args))
    progress = run_state(job.folder, job.resolved, inputs)
    if progress == "finished":
        logger.warning(f"{job.folder}: already finished; nothing to do")
        return None, read_metrics(job.folder)
    state.wait_for_everyone()
    if state.is_main_process and progress == "new":
        start_run(job.folder, job.resolved, inputs)
    judgments = kind.read_files(train_data, job.label_scale)
    evaluated = None if eval_data is None else kind.read_files(eval_data, job.label_scale)
    people = len(set(judgments.column("annotator")) - {None})
    if state.is_main_process:
        say(f"{job.objective}: {len(judgments)} judgments by {people} annotators; the run's folder is {job.folder}")
    transformers.set_seed(job.args.seed)
    resume = kind.resume_point(job, started=progress == "started", remove_halves=state.is_main_process)
    state.wait_for_everyone()
    try:
        trainer: Any = kind.from_run(job, judgments, evaluated)
    except (ValueError, ImportError) as fault:  # what transformers and TRL find wrong with the settings
        if isinstance(fault, PluralignError):
            raise
        raise PluralignError(f"{job.folder}: the training cannot be set up: {fault}") from fault
    launched = state.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    if (job.args.fsdp or launched) and trainer.accelerator.distributed_type != DistributedType.FSDP:
        raise PluralignError(
            f"fsdp: weights would not be sharded here ({trainer.accelerator.distributed_type.value}): start several "
            "processes with `accelerate launch` on GPUs, or leave fsdp (--use_fsdp) out"
        )
    with disk_errors(job.folder):
        try:
            result = trainer.train(resume_from_checkpoint=resume)
        except ImportError as fault:  # an optimiser whose library is missing
            raise PluralignError(f"{job.folder}: the training cannot be set up: {fault}") from fault
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_stopped(job.folder, trainer.state.global_step)) from stop
    metrics = {key: value for key, value in result.metrics.items() if key in ("train_loss", "train_runtime")}
    metrics |= {
        "steps": result.global_step,
        "train_judgments": len(judgments),
        "train_annotators": people,
        **trainer.training_metrics(),
    }
    measured = Measured({}) if evaluated is None else trainer.measure(evaluated)
    metrics |= measured.metrics
    if state.is_main_process:
        remove_recalibration(job.folder)  # a stored one belongs to other weights
    # Every process takes part, since sharded weights are gathered; one writes.
    partial = contextlib.nullcontext(job.folder / ".partial")
    with atomic_folder(job.folder) if state.is_main_process else partial as folder:
        trainer.save_model(str(folder), _internal_call=True)
    if state.is_main_process:
        metrics |= trainer.after_saving(job)
        for key in ("train_loss", "eval_loss"):
            if not math.isfinite(metrics.get(key, 0.0)):
                raise TrainingError(f"{key} is {metrics[key]}, so the model is broken and the run is not finished")
        undefined = [key for key, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
        if undefined:
            logger.warning(f"not defined for these judgments, and so not in metrics.json: {', '.join(undefined)}")
        metrics = {key: value for key, value in metrics.items() if key not in undefined}
        measured.write(job.folder)
        card = run_card(job.objective, kind.card_tag, trainer.usage(), job.resolved, metrics)
        finish_run(job.folder, metrics, card)
        say(f"finished; to measure it: pluralign evaluate {job.folder} FILE --out {job.folder}-evaluation")
    state.wait_for_everyone()
    return trainer, metrics
