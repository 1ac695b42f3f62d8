"""The columns of the canonical table."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.judgments.messages import MESSAGES
from pluralign.judgments.scales import LabelScale

Form = Literal["text", "messages"]

COLUMNS = (
    "id", "prompt", "responses", "ranks", "labels", "annotator", "source", "group", "weight", "time", "strength"
)  # fmt: skip
"""The columns of the table, in order."""

PREFERENCE_COLUMNS = ("prompt", "chosen", "rejected", "margin")
"""The columns of TRL's preference rows. They may have columns of the table, too, such as `annotator`."""

ALIASES = {
    "id": ("judgment_id", "annotation_id", "comparison_id", "row_id", "uid", "uuid"),
    "prompt": ("question", "instruction", "context", "input", "query", "problem"),
    "responses": ("completions", "answers", "candidates", "outputs", "generations", "options"),
    "ranks": ("rank", "ranking", "rankings"),
    "labels": ("ratings",),
    "annotator": (
        "annotator_id", "user", "user_id", "worker", "worker_id", "rater", "rater_id", "participant", "participant_id",
        "labeler", "labeler_id", "judge", "judge_id", "assessor", "respondent", "voter", "voter_id",
    ),
    "source": ("dataset", "data_source", "origin", "criterion"),
    "group": ("group_id", "cohort", "stratum"),
    "weight": ("weights", "importance", "reliability"),
    "time": ("timestamp", "created_at", "datetime", "date"),
    "strength": ("margin", "preference_strength"),
}  # fmt: skip
"""Names that columns often have elsewhere."""

_METADATA_KEY = b"pluralign"
_VERSION = 1


def schema(form: Form, scale: LabelScale | None = None) -> pa.Schema:
    """The Arrow schema of a table whose prompts are texts or chat messages; the scale goes into its metadata.

    Examples:
        >>> schema("text").field("responses").type
        ListType(list<item: string>)
    """
    text = pa.string() if form == "text" else MESSAGES
    meta = {"version": _VERSION, "label_scale": None if scale is None else scale.as_dict()}
    return pa.schema(
        [
            ("id", pa.string()),
            ("prompt", text),
            ("responses", pa.list_(text)),
            ("ranks", pa.list_(pa.int32())),
            ("labels", pa.list_(pa.string())),
            ("annotator", pa.string()),
            ("source", pa.string()),
            ("group", pa.string()),
            ("weight", pa.float64()),
            ("time", pa.timestamp("us", tz="UTC")),
            ("strength", pa.float64()),
        ],
        metadata={_METADATA_KEY: json.dumps(meta).encode()},
    )


def suggested_names(columns: Iterable[object], known: Collection[str]) -> dict[str, str]:
    """Known names for unknown columns that have one of their aliases, as far as these names are free.

    Examples:
        >>> suggested_names(["prompt", "workerId", "answers", "question"], COLUMNS)
        {'answers': 'responses', 'workerId': 'annotator'}
    """
    present = [str(column) for column in columns]
    plain = {column: re.sub("[^a-z]", "", column.lower()) for column in present if column not in known}
    names: dict[str, str] = {}
    for target in known:
        aliases = [alias.replace("_", "") for alias in (target, *ALIASES.get(target, ()))]
        fitting = [column for column in plain if target not in present and plain[column] in aliases]
        names |= dict.fromkeys(fitting[:1], target)
    return names


def rename_flags(names: Mapping[str, str]) -> str:
    """The options of the command line that give columns these names."""
    return " ".join(f"--rename {column}={target}" for column, target in names.items())


def unknown_column(name: object, row: Iterable[object], known: Collection[str]) -> RowError:
    """The error for a column that is not one of the known: it suggests new names for this one and others of the row."""
    names, hint = suggested_names(row, known), nearest(str(name), known)
    if str(name) in names:
        hint = f": rename it with {rename_flags(names)} (in Python columns={names})"
    if name == "":
        more = f"; and {rename_flags(names)}" if names else ""
        return RowError(
            None,
            "a column has no name, like the index that pandas writes: write the file with index=False, or leave the "
            f"column out (in Python columns={{'': None}}){more}",
        )
    return RowError(
        None,
        f"unknown column '{name}'{hint}; known are {', '.join(known)}; leave it out with import --drop-columns {name} "
        f"(in Python columns={{'{name}': None}}), or describe the file with --format mapping",
    )


def scale_of(stored: pa.Schema) -> LabelScale | None:
    """The label scale in a schema's metadata, or `None`.

    Raises:
        PluralignError: the metadata is damaged.
    """
    scale = _stored_metadata(stored).get("label_scale")
    try:
        return None if scale is None else LabelScale.from_dict(scale)
    except (AttributeError, TypeError) as fault:
        raise PluralignError(f"its metadata is damaged: the label scale cannot be read ({fault})") from fault


def is_canonical(stored: pa.Schema) -> bool:
    """Whether a schema is that of a canonical table, with its metadata of this version."""
    metadata = _stored_metadata(stored)
    forms: tuple[Form, ...] = ("text", "messages")
    return metadata.get("version") == _VERSION and any(stored.equals(schema(form)) for form in forms)


def _stored_metadata(stored: pa.Schema) -> dict[str, Any]:
    """What this library wrote into a schema's metadata; empty for other files."""
    try:
        metadata = json.loads((stored.metadata or {}).get(_METADATA_KEY, b"{}"))
    except (ValueError, RecursionError) as fault:
        raise PluralignError(f"its metadata is damaged ({fault}): write the file again") from fault
    if not isinstance(metadata, dict):
        raise PluralignError(f"its metadata is damaged (found {one_line(metadata)}): write the file again")
    return metadata


def ranks_from_scores(scores: Sequence[float | None]) -> list[int | None]:
    """Ranks with ties from scores, higher is better; `None` stays unranked.

    A rank is one plus the number of strictly better responses, so [9, 9, 4] gives [1, 1, 3].

    Examples:
        >>> ranks_from_scores([0.5, 2.0, None, 0.5])
        [2, 1, None, 2]
    """
    known = [score for score in scores if score is not None]
    return [None if score is None else 1 + sum(other > score for other in known) for score in scores]
