"""What `train` asks of a trainer: how it is built from a config, what it writes, and what it reports."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
import transformers
from accelerate import PartialState
from transformers.utils import logging
from trl import ModelConfig, get_quantization_config

from pluralign.core.errors import PluralignError, TrainingError
from pluralign.core.model_names import check_model_name
from pluralign.judgments.reading import Inputs
from pluralign.judgments.table import Judgments
from pluralign.scoring.adapters import sort_adapter_config, without_card
from pluralign.scoring.library_output import quiet_libraries
from pluralign.scoring.loading import save_config
from pluralign.scoring.measured import Measured
from pluralign.scoring.recalibrated import remove_recalibration
from pluralign.training.checkpoints import (
    CompletionMarker,
    Progress,
    newest_checkpoint,
    read_progress,
    write_progress,
)
from pluralign.training.console import use_console
from pluralign.training.sharding import load_parts_again, load_whole_weights, local_part

logger = logging.get_logger(__name__)

Config = TypeVar("Config")


@dataclass(frozen=True)
class TrainingRun:
    """A checked config, ready to run."""

    objective: str
    train_files: list[str]
    eval_files: list[str]
    label_scale: str | None
    rename: Mapping[str, str | None]
    folder: Path
    model: ModelConfig
    args: transformers.TrainingArguments
    resolved: dict[str, Any]

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` that the config sets."""
        kwargs: dict[str, Any] = {"dtype": self.model.dtype}
        if self.model.attn_implementation is not None:
            kwargs["attn_implementation"] = self.model.attn_implementation
        quantization = get_quantization_config(self.model)
        if quantization is not None:
            kwargs |= {"quantization_config": quantization, "device_map": {"": PartialState().process_index}}
        return kwargs


class Objective:
    """A mixin for trainers: the defaults of everything that differs between objectives.

    `train` and the model card use nothing else of a trainer but `train`, `save_model`, `evaluate` and `push_to_hub`.
    """

    # Of the trainer that this is mixed into.
    args: Any
    model: Any
    evaluate: Any
    state: Any
    add_callback: Any
    accelerator: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    _tr_loss: torch.Tensor

    required_keys: ClassVar[tuple[str, ...]] = ()
    """Required config keys, in addition to those that every run needs."""

    hidden_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of the config classes that have no meaning for this objective."""

    file_keys: ClassVar[tuple[str, ...]] = ()
    """Keys whose text values name files that the result depends on."""

    fixed_model_keys: ClassVar[Mapping[str, Any]] = {}
    """Keys of TRL's `ModelConfig` that this objective sets; a config may only repeat them."""

    default_model_keys: ClassVar[Mapping[str, Any]] = {}
    """Keys of TRL's `ModelConfig` with another default."""

    card_tag: ClassVar[str] = "language-model"
    """The kind of model, as a tag of the hub."""

    card_usage: ClassVar[str]
    """How to use the model, in Markdown; `{folder}` stands for its folder."""

    def __init__(self, *arguments: Any, callbacks: Sequence[Any] | None = None, **others: Any) -> None:
        trainer: Any = super()
        with quiet_libraries():
            trainer.__init__(*arguments, callbacks=callbacks, **others)
        use_console(self, callbacks or ())
        self.add_callback(CompletionMarker())

    @classmethod
    def input_files(cls, args: Any) -> list[str]:
        """Files that the result depends on, in addition to the judgments; if one changes, it is another run."""
        values = (getattr(args, key) for key in cls.file_keys)
        return [value for value in values if isinstance(value, str)]

    @classmethod
    def read_files(cls, files: Inputs, label_scale: str | None) -> Judgments:
        """The files as one table."""
        return files.read(label_scale)

    @classmethod
    def resume_point(cls, run: TrainingRun, started: bool, remove_halves: bool) -> str | bool | None:
        """The argument `resume_from_checkpoint` of `train`: by default the newest whole checkpoint of the run.

        `started` says whether the run was interrupted before, `remove_halves` whether this process removes
        half-written checkpoints.
        """
        checkpoint = newest_checkpoint(run.folder, remove_halves=remove_halves)
        if checkpoint is None:
            return None
        logger.warning(f"{run.folder}: resuming from {checkpoint.name}")
        return str(checkpoint)

    @classmethod
    def from_run(cls, run: TrainingRun, judgments: Judgments, evaluated: Judgments | None) -> Self:
        """The trainer of a run, with its model and data loaded.

        Raises:
            PluralignError: a model cannot be loaded or does not fit, or the data holds nothing to train on.
        """
        raise NotImplementedError

    def usage(self) -> str:
        """How to use the trained model, as `card_usage`."""
        return self.card_usage

    def training_metrics(self) -> dict[str, Any]:
        """Metrics of the training itself, for `metrics.json`; called after `train`."""
        return {}

    def measure(self, judgments: Judgments) -> Measured:
        """Metrics on held-out judgments; every process takes part. By default the loss alone."""
        return Measured({"eval_loss": self.evaluate()["eval_loss"]})

    def after_saving(self, run: TrainingRun) -> dict[str, Any]:
        """Write what else belongs beside the model, in the main process, and return further metrics."""
        return {}

    @property
    def sharded(self) -> bool:
        """Whether processes share the weights (FSDP, DeepSpeed), so that they must call the model together."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, as `transformers.Trainer.train` does."""
        trainer: Any = super()
        with quiet_libraries():
            if not self.is_deepspeed_enabled:
                return trainer.train(*args, **kwargs)
            load_parts_again(self.args)
            try:
                return trainer.train(*args, **kwargs)
            finally:
                load_whole_weights()

    # Of every training: it stops when it breaks, and a resumed one ends as an undisturbed one.

    _losses_since: tuple[torch.Tensor, ...] = ()
    _loss_sum = 0.0
    _seconds = 0.0
    _in_checkpoint = False

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """One forward and backward pass; stops training if the loss of a step of the optimiser is not finite."""
        trainer: Any = super()
        loss = trainer.training_step(*args, **kwargs)
        # Added up on the device, which the processor waits for once in a step.
        self._losses_since += (loss.detach(),)
        if self.accelerator.sync_gradients:
            self._add_losses()
        return loss

    def _add_losses(self) -> None:
        """Add the losses of the last micro-batches to the sum; stop training if one is not finite."""
        if not self._losses_since:
            return
        values = torch.stack(self._losses_since).tolist()
        self._losses_since = ()
        for value in values:
            # Under fp16 the scaler skips such a step and goes on.
            if not math.isfinite(value) and not self.args.fp16:
                raise TrainingError(
                    f"step {self.state.global_step + 1}: the loss is {value}, so the model is broken and is not saved: "
                    f"lower learning_rate (now {self.args.learning_rate:g}), or set max_grad_norm"
                )
            self._loss_sum += value

    def _init_training_state(
        self, max_steps: int, epoch_steps: int, epochs: int, resume_from_checkpoint: str | None, *others: Any
    ) -> tuple[int, int]:
        trainer: Any = super()
        trained: tuple[int, int] = trainer._init_training_state(
            max_steps, epoch_steps, epochs, resume_from_checkpoint, *others
        )
        before = Progress() if resume_from_checkpoint is None else read_progress(Path(resume_from_checkpoint))
        self._loss_sum, self._seconds, self._began = before.loss_sum, before.seconds, time.monotonic()
        self._losses_since = ()
        # A run that was killed after its last step would otherwise go on to the end of its epoch.
        return trained if self.state.global_step < max_steps else (epochs, 0)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = super()
        self._in_checkpoint = True
        try:
            trainer._save_checkpoint(model, trial)
        finally:
            self._in_checkpoint = False
        progress = Progress(self._mean_loss_sum(), self._seconds + time.monotonic() - self._began)
        if self.state.is_world_process_zero:
            write_progress(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}", progress)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        trainer: Any = super()
        # Of all steps, also those before an interruption.
        self._total_loss_scalar, self._initial_global_step = self._mean_loss_sum(), 0
        self._tr_loss = torch.zeros_like(self._tr_loss)
        output = trainer._finalize_training(trial, num_train_samples, start_time - self._seconds)
        weights = self.model.named_parameters()
        broken = [name for name, weight in weights if not bool(torch.isfinite(local_part(weight)).all())]
        if not self._everywhere(not broken):
            named = f"the weights {broken[0]}" if broken else "weights in another process"
            raise TrainingError(
                f"{named} are not finite after training, so the model is broken and is not saved: "
                f"lower learning_rate (now {self.args.learning_rate:g}), or set max_grad_norm"
            )
        return output

    def _everywhere(self, true: bool) -> bool:
        """Whether a condition holds in every process."""
        if self.accelerator.num_processes == 1:
            return true
        counted = self.accelerator.reduce(torch.tensor(float(true), device=self.accelerator.device), "sum")
        return bool(counted == self.accelerator.num_processes)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole model; where checkpoints are sharded, those alone hold its parts."""
        trainer: Any = super()
        trainer.save_model(output_dir, _internal_call)
        in_parts = self.is_fsdp_enabled and "FULL" not in str(self.accelerator.state.fsdp_plugin.state_dict_type)
        if in_parts and not self._in_checkpoint:
            self._save(output_dir, self.accelerator.get_state_dict(self.model))

    def _mean_loss_sum(self) -> float:
        if self.accelerator.num_processes == 1:
            return self._loss_sum
        total = torch.tensor(self._loss_sum, device=self.accelerator.device)
        return float(self.accelerator.reduce(total, reduction="mean"))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Safetensors, tokenizer and config, an adapter's too, so that it loads alone; no pickled arguments."""
        trainer: Any = super()
        if state_dict is not None and isinstance(self.model, transformers.PreTrainedModel):
            # Gathered weights that are tied come once under each name.
            state_dict = {name: it for name, it in state_dict.items() if name not in self.model.all_tied_weights_keys}
        folder = Path(output_dir or self.args.output_dir)
        with quiet_libraries(), without_card(folder):
            trainer._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        (folder / "training_args.bin").unlink(missing_ok=True)
        remove_recalibration(folder)  # a stored one belongs to other weights
        if not isinstance(self.model, transformers.PreTrainedModel):
            save_config(self.model.config, folder)
        for part in (folder, *(path for path in folder.iterdir() if path.is_dir())):  # types have folders of their own
            sort_adapter_config(part)


def warn_once(args: transformers.TrainingArguments, lines: Sequence[str]) -> None:
    """Warn in the main process only."""
    if args.process_index == 0:
        for line in lines:
            logger.warning(line)


def trainer_config(args: Any, kind: type[Config], model: Any, data_collator: None = None) -> Config:
    """The config of a trainer; without one the defaults, with the output folder that TRL would choose.

    Raises:
        PluralignError: `args` is something else, a collator is given, or there is no such model.
    """
    if isinstance(model, str | os.PathLike):
        check_model_name(model)
    if data_collator is not None:
        raise PluralignError("data_collator: batches are made from judgments: leave it out")
    if args is None:
        name = model if isinstance(model, str | os.PathLike) else getattr(model.config, "_name_or_path", "")
        objective = kind.__name__.removesuffix("Config")
        build: Any = kind
        return build("-".join(filter(None, (Path(name).name, objective))))
    if isinstance(args, transformers.TrainingArguments) and not isinstance(args, kind):
        found = f"{type(args).__module__.partition('.')[0]}.{type(args).__name__}"
        raise PluralignError(f"args: found {found}, expected pluralign.{kind.__name__}, which takes the same arguments")
    if not isinstance(args, kind):
        raise PluralignError(
            f"args: found {type(args).__name__}, expected {kind.__name__}; judgments are given as train_dataset=..."
        )
    return args
