"""Which rounds a run of EM-DPO may take, at which temperatures, and when it has taken enough."""

from __future__ import annotations

from dataclasses import dataclass

from pluralign.choice.em_dpo import temperatures
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.rounds import Round, gain_over

HOT = 3.0
"""Temperature of the first E-step after a poor or random start."""

LEAST = 3
"""Rounds that `rounds: auto` takes before it may stop."""


@dataclass(frozen=True)
class Plan:
    """The rounds of a run.

    Args:
        most: how many at most.
        automatic: whether they stop when they no longer gain, and must beat the start (`rounds: auto`).
        informed: whether the start may know something of the types: it is not random, nor found to be poor.
        temperatures: of each round's E-step.
        why_none: why no round is taken, if none is.
    """

    most: int
    automatic: bool
    informed: bool
    temperatures: list[float]
    why_none: str

    def enough(self, rounds: list[Round], judgments: int) -> bool:
        """Whether no further round follows; with `automatic`, once one at temperature 1 gained no more than its error.

        Args:
            rounds: the finished rounds from the start on.
            judgments: how many a round scores.
        """
        last = len(rounds) - 1
        if last >= self.most:
            return True
        if not self.automatic or last < LEAST or self.temperatures[last - 2] > 1:
            return False
        gain, error = gain_over(rounds, last, (rounds[last - 2], rounds[last - 1]), judgments)
        return gain <= error


def plan_of(args: EMDPOConfig, types: int, supported: bool) -> Plan:
    """The plan of a config.

    Args:
        args: the config.
        types: K of the start.
        supported: as in `TypeStart`.

    Examples:
        >>> poor = plan_of(EMDPOConfig(output_dir="run", types=2), 2, supported=False)
        >>> poor.most, poor.informed, [round(one, 2) for one in poor.temperatures]
        (6, False, [3.0, 1.73, 1.0, 1.0, 1.0, 1.0])
        >>> plan_of(EMDPOConfig(output_dir="run", types=2), 2, supported=True).most
        0
    """
    automatic = args.rounds == "auto"
    why = "rounds: 0 was asked for"
    if automatic:
        most = 0 if supported else args.most_rounds
        why = "they predict held-out annotators better than one type does"
    else:
        most = int(args.rounds)
    if types == 1:
        most, why = 0, "there is one type"
    informed = supported or args.start not in ("latent-class", "dirichlet")
    hot = args.temperature
    if hot == "auto":
        hot = 1.0 if informed else HOT
    cooling = temperatures(hot, (most + 1) // 2)
    return Plan(most, automatic, informed, cooling + [1.0] * (most - len(cooling)), why)
