"""Where does PM-DPO begin on text? The implicit rewards of a policy that is not tuned yet, on HH's pairs.

Under DPO they are all 0. With less of the reference charged they are beta times its log-probability of the tokens
inside, which falls with length. The language model is that of `small_language_model`; these are its test pairs.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
from common import OUT, store
from small_language_model import MODEL

from pluralign.choice.preference_matching import Penalty
from pluralign.judgments import read
from pluralign.training.preference_matching.dpo import PMDPOConfig, PMDPOTrainer

PENALTIES = (Penalty("kl"), *(Penalty("conditional", alpha) for alpha in (0.5, 0.3, 0.1)), Penalty("pm"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--max-length", type=int, default=256)
    options = parser.parse_args()
    if not MODEL.exists():
        raise SystemExit(f"{MODEL} is missing: run `python bench/run.py small_language_model` first")
    judgments = read(OUT / "hh-test.parquet")
    judgments = judgments.select(range(min(options.pairs, len(judgments))))
    rows = []
    for penalty in PENALTIES:
        with tempfile.TemporaryDirectory() as folder:
            args = PMDPOConfig(
                folder, mode=penalty.mode, alpha=penalty.alpha, gate=penalty.gate, max_length=options.max_length,
                use_cpu=True, report_to="none",
            )  # fmt: skip
            trainer = PMDPOTrainer(str(MODEL), args, judgments)
        items, utilities = trainer.score(judgments)
        tokens = np.array([len(own) for own in trainer.train_tokens.response_ids])
        first, second = items.response.reshape(-1, 2).T
        margin, longer = utilities[first] - utilities[second], tokens[first] - tokens[second]
        unequal = (longer != 0) & (margin != 0)
        rows.append(
            {
                "mode": penalty.mode,
                "alpha": penalty.alpha,
                "gate": penalty.gate,
                "loss": trainer.mean_loss(items, utilities),
                "margin": float(np.median(np.abs(margin))),
                "longer_behind": float(((margin < 0) == (longer > 0))[unequal].mean()) if unequal.any() else None,
            }
        )
        print(rows[-1], flush=True)
    lengths = {"median": float(np.median(tokens)), "cut": int(trainer.train_tokens.cut_responses)}
    store("matching_first_loss", {"options": vars(options), "pairs": len(first), "tokens": lengths, "rows": rows})


if __name__ == "__main__":
    main()
