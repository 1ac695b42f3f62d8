"""`train`: one YAML file to a trained model in a run folder, resumed by itself where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from accelerate import PartialState
from transformers.utils import logging
from trl import ModelConfig

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_folder, disk_errors, write_parquet
from pluralign.core.runs import file_fingerprints, finish_run, read_metrics, run_state, start_run
from pluralign.evaluation.pairs import Pairs
from pluralign.judgments.joining import join_sources
from pluralign.judgments.reading import read
from pluralign.judgments.table import Judgments
from pluralign.policies.loading import load_policy
from pluralign.reports.cards import run_card
from pluralign.scoring.items import compares, items_of
from pluralign.scoring.recalibrated import remove_recalibration
from pluralign.scoring.tokens import model_context
from pluralign.training.checkpoints import newest_checkpoint
from pluralign.training.dprm.trainer import DPRMTrainer
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.training.judgment_trainer import JudgmentTrainer
from pluralign.training.more.source_logs import mean_weights, source_history
from pluralign.training.more.trainer import MORETrainer
from pluralign.training.preference_matching.rlhf import PMRLHFTrainer, last_answers
from pluralign.training.reward_trainer import RewardTrainer
from pluralign.workflows.evaluate.crowds import CrowdResult, evaluate_crowd, write_crowds
from pluralign.workflows.evaluate.matching import drawn_by_both, margin_map_of, of_draws, write_matching
from pluralign.workflows.evaluate.policies import answer_rows, compare
from pluralign.workflows.evaluate.run import (
    pairs_under,
    reward_metrics,
    slices_of,
    typed_metrics,
    weight_files,
    write_calibration,
)
from pluralign.workflows.train.settings import (
    Given,
    check_known,
    check_value,
    fields_of,
    plain,
    read_flags,
    read_yaml,
)
from pluralign.workflows.train.trainers import OBJECTIVES, TrainingRun, make_trainer, model_kwargs

logger = logging.get_logger(__name__)

OWN_KEYS: dict[str, Any] = {
    "objective": str,
    "train_files": list[str],
    "eval_files": list[str] | None,
    "label_scale": str | None,
    "output_dir": str,
    "model_name_or_path": str,
}

_OURS_TO_SET = {"do_train", "do_eval", "do_predict", "remove_unused_columns", "resume_from_checkpoint"}
_NOT_ON_JUDGMENTS = {"lora_task_type"}


def train(config: str | os.PathLike[str], flags: Sequence[str] = ()) -> dict[str, Any]:
    """Train what a YAML file says, overridden by flags like `["--learning_rate", "1e-5"]`.

    A run that was killed is taken up from its newest whole checkpoint and ends as an undisturbed one would; a
    finished run is left alone.

    Args:
        config: the YAML file (docs: training).
        flags: any of its keys.

    Returns:
        The run's metrics, as in its `metrics.json`.

    Raises:
        PluralignError: a key or value is wrong (with its line), a file is missing or damaged, or the folder
            holds a run of another config.
    """
    return run(check(read_yaml(Path(config)), read_flags(flags), str(config)))


def check(given: Mapping[str, Given], flags: Mapping[str, Given], place: str = "config") -> TrainingRun:
    """Check every key and value by type and choice; nothing is loaded."""
    given = {**given, **flags}
    needed = ["objective", "model_name_or_path", "train_files", "output_dir"]
    if "objective" in given:
        objective = check_value(given["objective"], str, choices=tuple(OBJECTIVES))
        needed += ["reward_model"] if objective == "pm-rlhf" else []
    for key in needed:
        if key not in given:
            raise PluralignError(f"{place}: the key '{key}' is missing")
    kind = OBJECTIVES[objective][0]
    own, model_fields, fields = dict(OWN_KEYS), fields_of(ModelConfig), fields_of(kind)
    hidden = _OURS_TO_SET if objective in ("sft", "pm-rlhf") else _OURS_TO_SET | _NOT_ON_JUDGMENTS
    check_known(given, [key for key in {**own, **model_fields, **fields} if key not in hidden])
    values = {key: check_value(given[key], hint) for key, hint in own.items() if key in given}
    model_values: dict[str, Any] = {}
    arg_values: dict[str, Any] = {}
    for key, found in given.items():
        # A field of both (trust_remote_code in TRL's configs) goes to both.
        for known, checked in ((model_fields, model_values), (fields, arg_values)):
            if key in known and key not in own:
                hint, field = known[key]
                checked[key] = check_value(found, hint, field.metadata.get("choices"))
    if objective == "em-dpo":
        if not model_values.setdefault("use_peft", True):
            raise given["use_peft"].complain("em-dpo tunes an adapter for each type: leave this out")
        model_values.setdefault("lora_target_modules", ["all-linear"])
    model_values["model_name_or_path"] = values["model_name_or_path"]
    arg_values["output_dir"] = values["output_dir"]
    for key in ("train_files", "eval_files"):
        for file in values.get(key) or []:
            if not Path(file).is_file():
                raise given[key].complain(f"no such file: {file}")
    if arg_values.get("eval_strategy", "no") != "no" and not values.get("eval_files"):
        raise given["eval_strategy"].complain("evaluating during training needs eval_files")
    try:
        model, args = ModelConfig(**model_values), kind(**arg_values)
    except (ValueError, ImportError, KeyError) as fault:
        raise PluralignError(f"{place}: {' '.join(str(fault).split())}") from fault
    resolved = {**values, **_resolved(kind, arg_values), **_resolved(ModelConfig, model_values)}
    return TrainingRun(
        objective,
        values["train_files"],
        values.get("eval_files") or [],
        values.get("label_scale"),
        Path(values["output_dir"]),
        model,
        args,
        {key: value for key, value in resolved.items() if value is not None},
    )


def _resolved(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a config as given or by default, as plain values."""
    found = {}
    for name, (_, field) in fields_of(kind).items():
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[name] = plain(values.get(name, default))
    return found


def run(job: TrainingRun) -> dict[str, Any]:
    """Run a checked config: read, train or take up again, save, evaluate."""
    state = PartialState()
    given = (job.resolved.get(key) for key in ("vote_state", "cost_matrix"))
    others = [file for file in given if isinstance(file, str)]
    rewards = job.resolved.get("reward_model") or []
    others += [
        str(file) for name in ([rewards] if isinstance(rewards, str) else rewards) for file in weight_files(name)
    ]
    inputs = file_fingerprints([*job.train_files, *job.eval_files, *others])
    found = run_state(job.folder, job.resolved, inputs)
    if found == "finished":
        logger.warning(f"{job.folder}: this run is finished already; nothing to do")
        return read_metrics(job.folder)
    state.wait_for_everyone()
    if state.is_main_process and found == "new":
        start_run(job.folder, job.resolved, inputs)
    judgments = _read(job, job.train_files)
    evaluated = _read(job, job.eval_files) if job.eval_files else None
    transformers.set_seed(job.args.seed)
    checkpoint = newest_checkpoint(job.folder, remove_halves=state.is_main_process)
    state.wait_for_everyone()
    if checkpoint is not None:
        logger.warning(f"{job.folder}: resuming from {checkpoint.name}")
    trainer: Any = make_trainer(job, judgments, evaluated)
    resume: str | bool | None = None if checkpoint is None else str(checkpoint)
    if job.objective == "em-dpo":  # its checkpoints are those of its rounds
        resume = found == "started"
    with disk_errors(job.folder):
        result = trainer.train(resume_from_checkpoint=resume)
    metrics = {key: value for key, value in result.metrics.items() if key in ("train_loss", "train_runtime")}
    metrics["steps"] = result.global_step
    metrics |= _counts(judgments) | _found(trainer)
    held_out = _evaluation(trainer, evaluated)
    metrics |= held_out.metrics
    if state.is_main_process:
        remove_recalibration(job.folder)  # one that is there is of other weights
    # Every process takes part, since sharded weights are gathered; one writes.
    here = contextlib.nullcontext(job.folder / ".partial")
    with atomic_folder(job.folder) if state.is_main_process else here as folder:
        trainer.save_model(str(folder), _internal_call=True)
        (folder / "training_args.bin").unlink(missing_ok=True)
    if state.is_main_process:
        metrics |= _matched(job, trainer)
        metrics = {key: value for key, value in metrics.items() if _storable(value)}
        if held_out.crowds is not None:
            write_crowds(job.folder, held_out.crowds)
        if held_out.pairs is not None:
            write_calibration(job.folder, held_out.pairs, held_out.slices)
        if isinstance(trainer, MORETrainer):
            write_parquet(source_history(trainer.state.log_history, trainer.source_logs.kind, trainer.sources),
                          job.folder / "sources.parquet")  # fmt: skip
        finish_run(job.folder, metrics, run_card(job.objective, job.resolved, metrics))
    state.wait_for_everyone()
    if job.args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def _read(job: TrainingRun, files: list[str]) -> Judgments:
    """The files as one table; for MORE a row without a source gets the name of its file, without endings."""
    if job.objective != "more" or len(files) == 1:
        return read(files, job.label_scale)
    names = [Path(file).name.split(".")[0] for file in files]
    if len(set(names)) < len(names):
        names = files
    twice = [file for file in files if files.count(file) > 1]
    if twice:
        raise PluralignError(f"{twice[0]}: is named twice, and a source is one file: name it once")
    return join_sources({name: read(file, job.label_scale) for name, file in zip(names, files, strict=True)})


def _storable(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _counts(judgments: Judgments) -> dict[str, int]:
    annotators = {name for name in judgments.column("annotator") if name is not None}
    return {"train_judgments": len(judgments), "train_annotators": len(annotators)}


def _found(trainer: transformers.Trainer) -> dict[str, Any]:
    """What training found besides the model: the types, the sources' mean weights, or the last answers' means."""
    if isinstance(trainer, PMRLHFTrainer):
        return last_answers(trainer.state.log_history)
    if isinstance(trainer, MORETrainer):
        return mean_weights(trainer.state.log_history, trainer.source_logs.kind, trainer.sources)
    if not isinstance(trainer, EMDPOTrainer):
        return {}
    last = trainer.rounds[-1].record
    found: dict[str, Any] = {"types": len(trainer.adapters), "identification": trainer.verdict.verdict}
    found |= {f"share/type={kind + 1}": share for kind, share in enumerate(last["mixture_weights"])}
    told = ("log_likelihood", "log_likelihood_per_judgment")
    return found | {name: last[name] for name in told if name in last}


@dataclass(frozen=True)
class _Evaluated:
    """Metrics on the files held out; where the model gives rewards its pairs, and of reward models their slices.

    Where it predicts labels, the predictions beside the votes.
    """

    metrics: dict[str, Any]
    pairs: Pairs | None = None
    slices: dict[str, list[str | None]] | None = None
    crowds: CrowdResult | None = None


def _evaluation(trainer: transformers.Trainer, evaluated: Judgments | None) -> _Evaluated:
    if evaluated is None or isinstance(trainer, PMRLHFTrainer):  # whose policy answers once it is saved
        return _Evaluated({})
    if isinstance(trainer, EMDPOTrainer):
        items, utilities = trainer.score(evaluated)
        metrics, types = typed_metrics(evaluated, items, utilities, trainer.mixture, trainer.people)
        return _Evaluated(metrics, pairs_under(items, utilities, types))
    if isinstance(trainer, DPRMTrainer):
        return _crowd_evaluation(trainer, evaluated)
    if isinstance(trainer, JudgmentTrainer):
        items, utilities = trainer.score(evaluated)
        metrics = reward_metrics(evaluated, items, utilities) | {"eval_loss": trainer.mean_loss(items, utilities)}
        slices = slices_of(evaluated, items) if isinstance(trainer, RewardTrainer) else None
        return _Evaluated(metrics, pairs_under(items, utilities), slices)
    return _Evaluated({key: value for key, value in trainer.evaluate().items() if key == "eval_loss"})


def _crowd_evaluation(trainer: DPRMTrainer, evaluated: Judgments) -> _Evaluated:
    """Predictions against votes; where responses are compared too, the rewards against that."""
    crowd = trainer.crowd_of(evaluated)
    found = evaluate_crowd(evaluated, crowd, trainer.distributions)
    metrics = found.metrics | {"eval_loss": trainer.mean_loss(crowd, found.predicted)}
    if not compares(evaluated):
        return _Evaluated(metrics, crowds=found)
    items = items_of(evaluated)
    rewards = trainer.label_model.rewards_of(trainer.distributions(items))
    metrics = reward_metrics(evaluated, items, rewards) | metrics
    return _Evaluated(metrics, pairs_under(items, rewards), slices_of(evaluated, items), found)


_PROMPTS = 500  # of the files held out are answered: as many as in the paper
_ANSWERS = 2


def _matched(job: TrainingRun, trainer: transformers.Trainer) -> dict[str, float]:
    """How far a policy tuned by online matching, as it was saved, is from its reward on prompts held out.

    Writes the answers and what the plots need beside the policy.
    """
    if not isinstance(trainer, PMRLHFTrainer) or trainer.scorer is None or trainer.eval_dataset is None:
        return {}
    prompts: list[Any] = list(trainer.eval_dataset["prompt"])
    if len(prompts) > _PROMPTS:
        chosen = np.random.default_rng(job.args.seed).choice(len(prompts), size=_PROMPTS, replace=False)
        prompts = [prompts[index] for index in sorted(chosen)]
    tokenizer: Any = trainer.processing_class
    options: dict[str, Any] = {
        "max_length": model_context(trainer.model.config, tokenizer),
        "trust_remote_code": trainer.args.trust_remote_code,
        "device": trainer.args.device,
        **model_kwargs(job),
    }
    reference = load_policy(job.resolved["model_name_or_path"], revision=job.model.model_revision, **options)
    reward: Any = trainer.scorer
    draws = drawn_by_both(
        load_policy(job.folder, **options),
        reference,
        reward,
        prompts,
        samples=_ANSWERS,
        max_new_tokens=trainer.args.max_completion_length,
        seed=job.args.seed,
    )
    found, plots = of_draws(draws, margin_map_of(reward), {}, job.args.seed)
    write_matching(job.folder, answer_rows(prompts, draws), plots)
    return compare(draws, job.args.seed) | found
