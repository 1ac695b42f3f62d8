"""The length of responses while a policy is tuned, and a stop where they no longer end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback

from pluralign.core.errors import PluralignError
from pluralign.policies.policy import Sample

PROMPTS = 32
"""The prompts that are answered in each check."""

ENDLESS, FEW = 0.9, 0.5
"""Training stops where this share of responses is cut, if less than that share was cut before training."""


def stop_if_endless(cut: float, before: float, limit: int, switch: str) -> None:
    """Stop where nearly all responses run to the length limit that few reached before training.

    Args:
        cut: share of responses that were cut at the limit.
        before: the same before training.
        limit: the limit, in tokens.
        switch: how to train on nevertheless.

    Raises:
        PluralignError: they do.

    Examples:
        >>> stop_if_endless(0.95, 0.1, 64, "length_checks: 0")
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: length: 95 % of the responses run to the limit of 64 tokens (10 % before
        training), so the policy no longer ends them. Use mode: flattened, a smaller learning rate or an anchor;
        length_checks: 0 trains on nevertheless
    """
    if cut >= ENDLESS and before < FEW:
        raise PluralignError(
            f"length: {100 * cut:.0f} % of the responses run to the limit of {limit} tokens ({100 * before:.0f} % "
            "before training), so the policy no longer ends them. Use mode: flattened, a smaller learning rate or an "
            f"anchor; {switch} trains on nevertheless"
        )


class LengthChecks(TrainerCallback):
    """Draws responses to a few training prompts before training and at equal distances, and logs their length.

    Logged: `sampled/mean_length`, in tokens, and `sampled/cut`, the share that did not end within `limit` tokens; of
    several policies the mean length of all and the largest share. Only the main process draws.

    Args:
        trainer: whose `log` is called.
        draw: a response to each prompt within a number of tokens, for each policy that is trained; none where no check
            is due.
        prompts: of the training judgments.
        limit: the most tokens of a response.
        checks: how many after the first.

    Raises:
        PluralignError: in training, as `stop_if_endless` says.
    """

    def __init__(
        self,
        trainer: Any,
        draw: Callable[[Sequence[Any], int], list[list[Sample]]],
        prompts: list[Any],
        limit: int,
        checks: int,
    ) -> None:
        self.trainer = trainer
        self.draw = draw
        self.prompts = prompts[:: max(1, len(prompts) // PROMPTS)][:PROMPTS]
        self.limit = limit
        self.checks = checks
        self.before = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first check."""
        self.before = self._cut(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A check, where one is due."""
        due = {round(state.max_steps * number / self.checks) for number in range(1, self.checks + 1)}
        if state.global_step in due:
            stop_if_endless(self._cut(state, control), self.before, self.limit, "length_checks: 0")

    def _cut(self, state: Any, control: Any) -> float:
        """Log the lengths; the largest share of cut responses, 0 where none were drawn."""
        if not state.is_world_process_zero:
            return 0.0
        model = self.trainer.policy.model
        training = model.training
        groups = self.draw(self.prompts, self.limit)
        model.train(training)
        if not groups:
            return 0.0
        cut = max(float(np.mean([not sample.finished for sample in group])) for group in groups)
        length = float(np.mean([len(sample.token_ids) for group in groups for sample in group]))
        due = control.should_log
        self.trainer.log({"sampled/mean_length": length, "sampled/cut": cut})
        control.should_log = due  # a log takes back the request for the training's own
        return cut
