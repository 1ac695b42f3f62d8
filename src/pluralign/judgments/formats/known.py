"""The names of the formats, and by which columns a file of each is known."""

from __future__ import annotations

from collections.abc import Collection

FORMATS = (
    "table", "trl", "hh-rlhf", "mapping", "polis", "preflib", "label-studio", "argilla", "chatbot-arena", "oasst",
    "prism", "le-wi-di",
)  # fmt: skip
"""The names of the formats that can be imported."""

SIGNATURES: dict[str, tuple[tuple[str, ...], ...]] = {
    "--format trl": (("chosen", "rejected"), ("prompt", "chosen", "rejected")),
    "--format hh-rlhf": (("text", "score"),),
    "--format polis": (("participant", "group-id"), ("comment-id", "voter-id", "vote")),
    "--format label-studio": (("data", "annotations"), ("data", "completions"), ("annotation_id", "annotator")),
    "--format argilla": (("fields", "responses"),),
    "--format chatbot-arena": (
        ("conversation_a", "conversation_b", "winner"),
        ("prompt", "response_a", "response_b", "winner_model_a"),
    ),
    "--format oasst": (("message_tree_id", "prompt"),),
    "--format prism": (("conversation_history", "user_id"),),
    "--mapping ultrafeedback-binarized": (("prompt_id", "chosen", "rejected", "messages"),),
    "--mapping ultrafeedback": (("instruction", "completions"),),
    "--mapping helpsteer2": (("prompt", "response", "helpfulness"),),
    "--mapping helpsteer2-preference": (("response_1", "response_2", "preference_strength"),),
    "--mapping helpsteer3": (("context", "response1", "response2", "individual_preference"),),
    "--mapping multipref": (("completion_a", "completion_b", "normal_worker_annotations"),),
    "--mapping nectar": (("prompt", "answers", "num_responses"), ("prompt", "answers")),
    "--mapping shp": (("history", "human_ref_A", "human_ref_B"),),
    "--mapping summarize-from-feedback": (("info", "summaries", "choice"),),
    "--mapping summarize-from-feedback-axis": (("info", "summary", "worker"),),
    "--mapping openai-preference": (("input", "preferred_output", "non_preferred_output"),),
    "--mapping sharegpt-preference": (("conversations", "chosen", "rejected"),),
    "--mapping kto": (("prompt", "completion", "label"),),
}
"""For each known source, the sets of columns that its files have."""


def nearest_source(columns: Collection[str]) -> str | None:
    """The source whose columns a file has, or else the one that shares most of them; `None` if none does.

    Examples:
        >>> nearest_source(["chosen", "rejected", "margin"]), nearest_source(["a", "b"])
        ('--format trl', None)
    """
    best, nearest = (0.0, 0), None
    for name, signatures in SIGNATURES.items():
        for signature in signatures:
            shared = len({*signature} & {*columns})
            if shared and (shared / len(signature), shared) > best:
                best, nearest = (shared / len(signature), shared), name
    return nearest
