"""An audit as its workflow stores it, with content for every part of the page."""

import numpy as np
import pytest

from pluralign.core.records import record_of
from pluralign.reports.audit_record import AuditPage

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror="alert(2)">',
    "mathematics": "$x_1$ and $\\frac{1}{0",
    "template": "{{ 7*7 }} {% raw %} {# no #}",
    "closing": "</style></title></svg></details>",
    "direction": "\u202eright to left\u2066 and never closed",
    "word": "W" * 10_000,
    "letters": "意见不同 🙂 مرحبا שלום",
    "control": "a\x00b\x1bc\ud800d\nnew line\ttab",
}


def histogram(values, edges):
    counts, _ = np.histogram(values, edges)
    return {"edges": [float(edge) for edge in edges], "counts": counts.tolist()}


def audit_content():
    """The content of an `audit.json`."""
    draw = np.random.default_rng(0)
    answers = {
        "How do I get a stain out of wool?": [
            "Cold water and a little vinegar. Dab, do not rub, and let it dry flat.",
            "Great question! There are many wonderful ways to think about stains, and every one of them begins with "
            "patience. First, fill a basin with cold water; second, add a spoon of white vinegar; third, dab the place "
            "gently for five minutes; and last, let the piece dry flat on a towel, away from the sun.",
            "Take it to a dry cleaner.",
        ],
        "Is it fine to swim after lunch?": [
            "Yes.",
            "Most doctors see no harm in it; a heavy meal may make you feel slow, so listen to your body.",
            "Better wait an hour, as our grandmothers said.",
        ],
    }
    names = ["type 1", "type 2", "type 3"]
    shares = [0.47, 0.34, 0.19]
    kinds = draw.choice(3, size=420, p=shares)
    centres = np.array([[0, 0], [3, 1], [1, 3.2]])
    points = centres[kinds] + draw.normal(size=(420, 2)) * 0.7
    types = []
    for place, (name, share) in enumerate(zip(names, shares, strict=True)):
        pairs = [(prompt, response) for prompt, of in answers.items() for response in of]
        draw.shuffle(pairs)
        worths = [
            {"prompt": p, "response": r, "worth": float(w), "low": float(w - 0.3), "high": float(w + 0.3)}
            for (p, r), w in zip(pairs, np.sort(draw.normal(size=len(pairs)))[::-1], strict=True)
        ]
        lift = [{"prompt": p, "response": r, "difference": float(1.4 - 0.4 * i)} for i, (p, r) in enumerate(pairs[:3])]
        drop = [{"prompt": p, "response": r, "difference": float(0.4 * i - 1.2)} for i, (p, r) in enumerate(pairs[3:])]
        traits = [
            {"trait": trait, "value": float(v), "low": float(v - 0.18), "high": float(v + 0.2)}
            for trait, v in zip(("length", "hedging", "politeness", "lists"), draw.normal(size=4), strict=True)
        ]
        members = [{"annotator": f"w{i:03}", "probability": 0.99} for i in np.flatnonzero(kinds == place)]
        types.append(
            {
                "type": place + 1, "name": name, "share": share, "low": share - 0.05, "high": share + 0.05,
                "annotators": len(members), "certain": int(0.8 * len(members)), "members": members, "worths": worths,
                "lifts": lift, "drops": drop, "traits": traits,
            }
        )  # fmt: skip
    judgments = np.array([2, 4, 8, 16, 32])
    power = [
        {
            "design": design,
            "judgments": int(m),
            "accuracy": float(a),
            "low": float(max(a - 0.06, 0)),
            "high": float(min(a + 0.05, 1)),
        }
        for design, rate in (("as collected", 9.0), ("rankings of three", 5.0))
        for m, a in zip(judgments, 1 - 0.62 * np.exp(-judgments / rate), strict=True)
    ]
    return {
        "data": {
            "files": ["town/train.parquet"], "judgments": 6720, "annotators": 420, "prompts": 212, "unique_responses": 1480,
            "left_out": 12, "kinds": {"pairs": 2210, "rankings": 4510, "tied": 331, "labels": 0},
            "judgments_per_annotator": histogram(draw.poisson(16, 420), np.arange(0, 34, 3)),
            "ranking_lengths": {"2": 2210, "3": 3100, "4": 1410}, "sources": {"helpfulness": 4100, "style": 2620},
            "groups": {"nurses": 160, "teachers": 140, "engineers": 120},
        },
        "warnings": ["41 annotators gave fewer than five judgments; their types are guesses."],
        "agreement": {
            "krippendorff_alpha": 0.31, "alpha_low": 0.27, "alpha_high": 0.35, "level": "ordinal", "units": 1480,
            "annotator_agreement": histogram(draw.beta(6, 3, 420), np.linspace(0, 1, 21)),
            "intransitive_triples": {"share": 0.023, "triples": 8120},
            "condorcet_cycles": {"prompts": 212, "cyclic": 19, "without_winner": 31},
            "majority_margins": {**histogram(draw.beta(1.2, 1.6, 3000), np.linspace(0, 1, 11)), "unanimous": 0.12},
        },
        "identification": {
            "verdict": "identified", "reason": "Each person ranks three or more responses, and the three types differ on 61 % of the prompts.",
            "sentence": "Three types: they predict held-out judgments better than one taste does.",
            "advice": "", "checks": [
                {"name": "rank of the design", "value": 14, "meaning": "as many directions as the types need"},
                {"name": "restarts that agree", "value": "9 of 10", "meaning": "other starts end in the same types"},
                {"name": "condition", "value": None, "meaning": "not defined here"},
            ],
            "posterior_entropy": histogram(draw.beta(0.5, 4, 420) * 1.1, np.linspace(0, 1.1, 12)), "power": power,
        },
        "selection": [
            {"types": k, "held_out": h, "low": h - 0.008, "high": h + 0.008, "bic": b}
            for k, h, b in zip(range(1, 7), (-0.662, -0.601, -0.571, -0.570, -0.573, -0.577), (9320, 8610, 8230, 8290, 8370, 8480), strict=True)
        ],
        "types": types,
        "groups": [
            {"group": "nurses", "annotators": 160, "shares": [0.7, 0.2, 0.1]},
            {"group": "teachers", "annotators": 140, "shares": [0.35, 0.55, 0.1]},
            {"group": "engineers", "annotators": 120, "shares": [0.25, 0.29, 0.46]},
        ],
        "groups_adjusted_rand": 0.14,
        "type_views": views_of(names, answers),
        "group_views": views_of(["nurses", "teachers", "engineers"], answers),
        "examples": {
            "types": names,
            "divide": [
                {"prompt": prompt, "first": of[0], "second": of[1], "probabilities": [0.93, 0.12, 0.5]}
                for prompt, of in answers.items()
            ],
            "agree": [{"prompt": "Is tea fine?", "first": "It is.", "second": None, "probabilities": [0.9, 0.8, 0.85]}],
        },
        "map": {"x": points[:, 0].tolist(), "y": points[:, 1].tolist(), "type": (kinds + 1).tolist()},
        "annotators": {
            "annotators": 420, "tau": 0.41, "careless_share": 0.02,
            "counts": {"careless": 1, "straight-liner": 1, "near-copy": 2, "contrary": 0},
            "flagged": [
                {
                    "annotator": f"w{number:03}", "flags": flags, "judgments": 16, "scale": scale, "scale_low": 0.0,
                    "scale_high": scale + 0.2, "agreement": None if copies else 0.4, "weight": scale, "copies": copies,
                }
                for number, flags, scale, copies in (
                    (3, ["careless", "straight-liner"], 0.04, []), (7, ["near-copy"], 0.8, ["w012"]),
                    (12, ["near-copy"], 0.9, ["w007"]),
                )
            ],
        },
    }  # fmt: skip


def views_of(viewers, answers):
    """Views of each answer to each prompt: what divides most first, the last one judged by too few."""
    responses = [
        {
            "prompt": prompt, "response": response, "divides": 0.8 - 0.1 * place, "agreed": 0.6, "agreed_on": "agree",
            "views": [
                {"shares": [0.6 - 0.2 * viewer, 0.1, 0.3 + 0.2 * viewer], "judgments": 40.0 - 13 * place}
                for viewer in range(len(viewers) - 1)
            ] + [{"shares": [], "judgments": 0.0}],
        }
        for prompt, of in answers.items() for place, response in enumerate(of)
    ]  # fmt: skip
    responses += [
        {"prompt": "More?", "response": f"statement {n}", "divides": 0.02, "agreed": 0.9 - 0.01 * n, "agreed_on": "agree",
         "views": [{"shares": [0.9, 0.1, 0.0], "judgments": 4.0}] * len(viewers)}
        for n in range(16)
    ]  # fmt: skip
    return {"answers": ["agree", "pass", "disagree"], "viewers": viewers, "responses": responses}


def audit_of(content):
    return record_of(content, AuditPage, "audit.json")


@pytest.fixture(scope="session")
def audit():
    return audit_of(audit_content())


def hostile_audit():
    """Hostile texts wherever an audit holds a text of the data."""
    audit, texts = audit_content(), list(HOSTILE.values())
    audit["data"]["files"] = texts
    audit["data"]["sources"] = {text: 3 + index for index, text in enumerate(texts)}
    audit["data"]["kinds"] = dict.fromkeys(texts, 2)
    audit["data"]["groups"] = dict.fromkeys(texts, 2)
    audit["warnings"] = texts
    audit["identification"] |= {"verdict": texts[0], "reason": texts[1], "advice": texts[6], "sentence": texts[0]}
    audit["identification"]["checks"] = [{"name": text, "value": text, "meaning": text} for text in texts]
    for index, row in enumerate(audit["identification"]["power"]):
        row["design"] = texts[index // 5]
    for index, kind in enumerate(audit["types"]):
        kind["name"] = texts[index]
        kind["traits"] = [{"trait": text, "value": 1.0, "low": 0.5, "high": 1.5} for text in texts]
        kind["members"] = [{"annotator": text, "probability": 1.0} for text in texts]
        kind["worths"] = [{"prompt": text, "response": text, "worth": 1.0, "low": None, "high": None} for text in texts]
        kind["lifts"] = [{"prompt": text, "response": text, "difference": 1.0} for text in texts[:5]]
        kind["drops"] = [{"prompt": text, "response": text, "difference": -1.0} for text in texts[4:]]
    for name in ("type_views", "group_views"):
        audit[name] = views_of(texts[:3], {text: [text] for text in texts}) | {"answers": texts[4:7]}
    audit["examples"] = {
        "types": texts[:3],
        "divide": [{"prompt": text, "first": text, "second": text, "probabilities": [0.9, 0.1, 0.5]} for text in texts],
        "agree": [],
    }
    audit["annotators"]["flagged"] = [
        audit["annotators"]["flagged"][0] | {"annotator": text, "flags": [text], "copies": texts} for text in texts
    ]
    audit["groups"] = [{"group": text, "annotators": 5, "shares": [0.2, 0.3, 0.5]} for text in texts]
    return audit_of(audit)
