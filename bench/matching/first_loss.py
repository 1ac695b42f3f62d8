"""Where does PM-DPO start on text? The implicit rewards of an untuned policy on pairs of HH.

Under DPO they are all 0. If less of the reference is charged, they are beta times the policy's log-probability of the
tokens inside, which falls with length. The policy is the small language model, the pairs are from its test part.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from pluralign.choice.preference_matching import Penalty
from pluralign.judgments import read
from pluralign.training.preference_matching.dpo import PMDPOConfig, PMDPOTrainer

from ..against_trl.small_language_model import MODEL
from ..common.options import parsed
from ..common.results import OUT, store
from .trees import named_penalty

PENALTIES = (Penalty("kl"), *(Penalty("conditional", alpha) for alpha in (0.5, 0.3, 0.1)), Penalty("pm"))


def main() -> None:
    options = parsed(__doc__, pairs=400, max_length=256)
    if not MODEL.exists():
        raise SystemExit(f"{MODEL} is missing: run `python bench/run.py small_language_model` first")
    judgments = read(OUT / "hh-test.parquet")
    judgments = judgments.select(range(min(options.pairs, len(judgments))))
    rows: list[dict[str, Any]] = []
    for penalty in PENALTIES:
        with tempfile.TemporaryDirectory() as folder:
            settings = {"max_length": options.max_length, "use_cpu": True, "report_to": "none"}
            args = PMDPOConfig(folder, **named_penalty(penalty), **settings)
            trainer = PMDPOTrainer(str(MODEL), args=args, train_dataset=judgments)
        items, utilities = trainer.score(judgments)
        tokens = np.array([len(ids) for ids in trainer.train_tokens.response_ids])
        first, second = items.response.reshape(-1, 2).T
        margin, longer = utilities[first] - utilities[second], tokens[first] - tokens[second]
        unequal = (longer != 0) & (margin != 0)
        behind = float(((margin < 0) == (longer > 0))[unequal].mean()) if unequal.any() else None
        loss = trainer.mean_loss(items, utilities)
        margins = {"margin": float(np.median(np.abs(margin))), "longer_behind": behind}
        rows.append(named_penalty(penalty) | {"loss": loss, **margins})
        print(rows[-1], flush=True)
    lengths = {"median": float(np.median(tokens)), "cut": int(trainer.train_tokens.cut_responses)}
    store("matching_first_loss", {"options": vars(options), "pairs": len(first), "tokens": lengths, "rows": rows})
