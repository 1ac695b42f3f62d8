"""What training says while it runs: one line for every log, with the step, the loss, the speed and the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl import RichProgressCallback

from pluralign.core.progress import say

SHOWN = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "reward": "reward",
    "kl": "KL",
    "accuracy": "accuracy",
    "rewards/accuracies": "accuracy",
    "eval_accuracy": "held-out accuracy",
    "mean_token_accuracy": "token accuracy",
    "learning_rate": "learning rate",
}
"""The logged values of a line, in this order, with their names."""


class ConsoleCallback(TrainerCallback):
    """Prints a line for every log in place of the bar and the dictionaries of `transformers`."""

    def __init__(self) -> None:
        self._begun, self._first, self._step = 0.0, 0, 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self._begun, self._first, self._step = time.monotonic(), state.global_step, state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the step: in a log its number may run on from a training before, while `max_steps` is of this one."""
        self._step = state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Print the line of a log that has a loss."""
        if state.is_world_process_zero and logs and ("loss" in logs or "eval_loss" in logs):
            passed = time.monotonic() - self._begun
            say(log_line(self._step, state.max_steps, self._step - self._first, passed, logs))


def use_console(trainer: Any, given: Sequence[Any]) -> None:
    """Let a trainer print its progress by `ConsoleCallback`, unless its user chose otherwise.

    Args:
        trainer: of `transformers`.
        given: the callbacks that its user gave, instances or classes. One that shows progress stands alone, and
            `disable_tqdm=False` of the config keeps the bar of `transformers`.
    """
    if not trainer.args.disable_tqdm:
        return
    trainer.remove_callback(PrinterCallback)
    shows = (ProgressCallback, PrinterCallback, RichProgressCallback, ConsoleCallback)
    if not any(isinstance(one, shows) or one in shows for one in given):
        trainer.add_callback(ConsoleCallback())


def log_line(step: int, steps: int, done: int, seconds: float, logs: Mapping[str, Any]) -> str:
    """The line of a log.

    Args:
        step: the number of the step, in this training.
        steps: steps of the whole training, in EM-DPO of the M-step.
        done: steps since it was started.
        seconds: since it was started.
        logs: the logged values.

    Examples:
        >>> log_line(20, 60, 20, 10.0, {"loss": 0.61234, "grad_norm": 3.0, "learning_rate": 1e-05})
        'step 20 of 60: loss 0.6123, learning rate 1e-05; 2 steps a second, 20 s left'
    """
    values = [f"{name} {float(logs[key]):.4g}" for key, name in SHOWN.items() if key in logs]
    told = f"step {step} of {steps}: {', '.join(values)}"
    if not done or seconds <= 0:
        return told
    speed = done / seconds
    pace = f"{speed:.2g} steps a second" if speed >= 1 else f"{1 / speed:.2g} s a step"
    return f"{told}; {pace}, {max(0, steps - step) / speed:.0f} s left"
