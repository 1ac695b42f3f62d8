"""The page of an audit: do these people differ, can the data show it, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pluralign.reports.audit.data import agreement_blocks, data_blocks
from pluralign.reports.audit.identification import identification_blocks, selection_blocks
from pluralign.reports.audit.schema import filled
from pluralign.reports.audit.types import group_blocks, type_blocks
from pluralign.reports.page import Banner, Block, Note, Remarks, Section, Tiles, Tone, render
from pluralign.reports.texts import number, percent, plural

_VERDICTS: dict[str, tuple[Tone, str]] = {
    "identified": ("good", "✓ Yes: the types are identified"),
    "weak": ("careful", "! Only weakly: read the types with care"),
    "not identified": ("bad", "✕ No: the types are not identified"),
}


def audit_page(audit: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The HTML page of an audit.

    Args:
        audit: the content of `audit.json`; any block may be missing or null.
        metrics: the content of `metrics.json`.

    Returns:
        one self-contained page; the same arguments give the same bytes.

    Raises:
        PluralignError: a block is not of the shape that an audit writes; names the place.

    Examples:
        >>> page = audit_page({"identification": {"verdict": "weak", "reason": "Few judgments <each>."}}, {})
        >>> "Few judgments &lt;each&gt;." in page
        True
    """
    checked = filled(dict(audit))
    data = checked["data"]
    subtitle = "of " + ", ".join(data["files"]) if data and data["files"] else "who differs, and can the data show it?"
    return render("Audit", subtitle, audit_sections(checked, metrics))


def audit_sections(audit: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Section]:
    """The sections of an audit that `pluralign.reports.audit.schema.filled` has checked."""
    audit = dict(audit) | {"types": _numbered(audit["types"])}
    chosen = metrics.get("types")
    parts = [
        Section("Verdict", _summary(audit, metrics)),
        Section("The data", data_blocks(audit["data"]), "What people said, and how much of it there is."),
        Section("Agreement", agreement_blocks(audit["agreement"]), "Do people who judged the same thing say the same?"),
        Section(
            "What the data can tell",
            identification_blocks(audit["identification"]),
            "Could other types of people explain these judgments just as well?",
        ),
        Section(
            "How many types",
            selection_blocks(audit["selection"], chosen if isinstance(chosen, int) else len(audit["types"])),
            "A type is worth having when it predicts judgments that were held out.",
        ),
        Section("The types", type_blocks(audit["types"], audit["map"]), _caution(audit)),
        Section(
            "Known groups",
            group_blocks(audit["groups"], audit["types"], audit["groups_adjusted_rand"]),
            "How the types fall over the groups that the data names. Groups were never used to find the types.",
        ),
    ]
    return [
        part if part.blocks else Section(part.title, [Note("The audit holds nothing for this part.")])
        for part in parts
        if part.blocks or part.title not in ("Known groups",)
    ]


def _numbered(types: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The types with the number and the name that the page calls them by."""
    return [
        one | {"type": int(one["type"] or place), "name": one["name"] or f"type {int(one['type'] or place)}"}
        for place, one in enumerate(types, 1)
    ]


def _summary(audit: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Block]:
    """The verdict, the key figures and the warnings."""
    found, data, agreement = audit["identification"], audit["data"] or {}, audit["agreement"] or {}
    blocks: list[Block] = []
    verdict = (found or {}).get("verdict") or metrics.get("identification")
    if verdict is not None:
        tone, title = _VERDICTS.get(str(verdict), ("plain", str(verdict)))
        paragraphs = [(found or {}).get("reason") or ""]
        if (found or {}).get("mend"):
            paragraphs.append(f"What would help: {found['mend']}")
        question = "Can this data show the types of people?"
        blocks.append(Banner(tone, question, title, [one for one in paragraphs if one]))
    else:
        blocks.append(Note("This audit holds no verdict on whether the types can be identified."))
    count = len(audit["types"]) or metrics.get("types")
    alpha = agreement.get("krippendorff_alpha")
    items = [
        ("types found", number(count), _of_types(audit["types"])) if isinstance(count, int) else None,
        ("judgments", number(data.get("judgments")), _left_out(data)),
        ("people", number(data.get("annotators")), _per_person(data)),
        ("prompts", number(data.get("prompts")), ""),
        ("different responses", number(data.get("unique_responses")), ""),
        ("agreement (alpha)", number(alpha), "1 full, 0 chance") if alpha is not None else None,
    ]
    shown = [item for item in items if item is not None and item[1] != number(None)]
    if shown:
        blocks.append(Tiles(shown))
    if audit["warnings"]:
        blocks.append(Remarks("Mind", audit["warnings"]))
    return blocks


def _caution(audit: Mapping[str, Any]) -> str:
    """How far to believe the types."""
    verdict = (audit["identification"] or {}).get("verdict")
    if verdict == "not identified":
        return "Other types would explain these judgments as well: do not act on the ones below."
    if verdict == "weak":
        return "The data show these types only weakly: take them as a guess to be checked."
    return "Who they are and what they want."


def _of_types(types: list[dict[str, Any]]) -> str:
    shares = [one["share"] for one in types if one["share"] is not None]
    return "largest first: " + ", ".join(percent(share) for share in sorted(shares, reverse=True)[:4]) if shares else ""


def _left_out(data: Mapping[str, Any]) -> str:
    return f"{plural(data['left_out'], 'row')} left out" if data.get("left_out") else ""


def _per_person(data: Mapping[str, Any]) -> str:
    judgments, people = data.get("judgments"), data.get("annotators")
    return f"{number(round(judgments / people, 1))} judgments each on average" if judgments and people else ""
