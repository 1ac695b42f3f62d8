"""EM-DPO on Polis conversations with a pretrained language model, SmolLM2-135M-Instruct.

Participants' votes as in `em_real`: an annotator's statements, ranked agree over pass over disagree, are cut at random
into rankings of five or a few more, and a fifth of everybody's rankings is held out. One policy for all and the default
number of types take equally many steps, so that the types share the steps that the one policy has alone. The settings
were fixed before any held-out ranking was read. Beside them stands the latent-class model that EM-DPO starts from: it
knows only which statements these are, not what they say, and every statement occurs in training. With `--held-out
statements` a fifth of the statements is held out instead, of which that model knows nothing. Every run is stored as
soon as it is done, and a stopped script continues where it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers

from pluralign.judgments import Judgments
from pluralign.scoring.annotator_types import findings
from pluralign.scoring.items import items_of
from pluralign.scoring.mixtures import Mixture

from ..common.data import POLIS_CONVERSATIONS
from ..common.options import QUICK, Option, parsed, parts
from ..common.pretrained import SMOLLM2, pretrained
from ..common.results import keep, kept
from ..common.training import HALF
from ..em_dpo.polis import conversation
from ..em_dpo.runs import compared, predicted

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 16, "max_steps": 40, "learning_rate": 1e-3, "lr_scheduler_type": "cosine",
    "warmup_steps": 4, "beta": 1.0, "max_length": 160, "rounds": 0, "features": "worths",
    **HALF,
}  # fmt: skip
"""Of EM-DPO, with LoRA of rank 8 on all linear layers; everything else is the default."""

METHODS: dict[str, dict[str, Any]] = {"one type": {"types": 1}, "types": {"types": "auto"}}


def latent_class(train: Judgments, test: Judgments, types: int, seed: int) -> dict[str, Any]:
    """How well worths of statements by type, without a language model, predict held-out rankings."""
    found = findings(train, features="worths", types=types, simulations=0, seed=seed)
    seen, items, model = found.people.items, items_of(test), found.model
    place = {text: number for number, text in enumerate(seen.responses)}
    utilities = np.zeros((types, len(items.responses)))
    for number, text in enumerate(items.responses):
        if text in place:
            utilities[:, number] = model.coefficients_[:, place[text]]
    weights = model.mixture_weights_ / model.mixture_weights_.sum()
    mixture = Mixture({f"type-{kind + 1}": float(share) for kind, share in enumerate(weights)}, beta=1.0)
    posteriors = {str(name): gamma for name, gamma in zip(found.people.names, model.responsibilities_, strict=True)}
    return {"shares": weights.tolist(), "predicted": predicted(test, items, utilities, mixture, posteriors)}


def main() -> None:
    options = parsed(
        __doc__,
        conversations=parts(POLIS_CONVERSATIONS, "Polis conversations."),
        annotators=Option(None, "Annotators of a conversation, a seeded sample; all by default.", type=int),
        size=(5, "Statements in a small ranking, or a few more."),
        steps=(SETTINGS["max_steps"], "Steps of a run, all types together."),
        held_out=Option("rankings", "What is held out.", ("rankings", "statements")),
        seed=0,
        quick=QUICK,
    )
    stored_as = "smollm2_polis" + "_new" * (options.held_out == "statements") + "_quick" * options.quick
    if options.quick:
        options.conversations, options.annotators, options.steps = ["brexit-consensus"], 60, 3
    transformers.logging.set_verbosity_error()
    model = pretrained(SMOLLM2)
    given = SETTINGS | {"max_steps": options.steps}
    settings = given | {"size": options.size, "share": 0.2, "most_people": options.annotators, "seed": options.seed}
    rows = kept(stored_as, settings)
    for place in options.conversations:
        data = conversation(place, options.size, settings["share"], options.annotators, options.seed, options.held_out)
        compared(stored_as, settings, rows, place, options.seed, model, data, METHODS, given)
        for method in METHODS:
            row = rows[f"{place}, {options.seed}, {method}"]
            if "latent_class" not in row:
                row["latent_class"] = latent_class(data.train, data.test, row["types"], options.seed)
        keep(stored_as, settings, rows)
