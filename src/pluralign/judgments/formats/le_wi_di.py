"""Le-Wi-Di (learning with disagreements): an object of items by id, with the labels of all annotators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, one_line
from pluralign.judgments.formats.convert import Rows, Tally, names_in
from pluralign.judgments.rows import read_json
from pluralign.judgments.validation import Reject


def read_le_wi_di(
    path: Path, reject: Reject | None = None, tally: Tally | None = None, prompt: str | None = None
) -> Rows:
    """Format `le-wi-di`: a label of the item's text for each annotator.

    Args:
        path: a JSON file with one object: item by id.
        reject: called with each bad item; `None` raises.
        tally: counts items, and what gives no judgment.
        prompt: the prompt of all judgments. Default: empty.

    Raises:
        PluralignError: the file is not such an object, or an item is bad and `reject` is `None`.
    """
    tally = Tally() if tally is None else tally
    items = read_json(path)
    if not isinstance(items, Mapping):
        raise PluralignError(f"{path}: expected one JSON object with an item for each id")
    for number, (name, item) in enumerate(items.items(), start=1):
        tally.rows += 1
        try:
            yield from ((number, row) for row in list(item_labels(name, item, prompt or "", path.stem, tally)))
        except RowError as complaint:
            if reject is None:
                raise complaint.at(path, number) from complaint
            reject(number, {name: item}, complaint)


def item_labels(name: str, item: Any, prompt: str, source: str, tally: Tally) -> Iterator[dict[str, Any]]:
    """The judgments of one item.

    Examples:
        >>> item = {"text": "Nice.", "annotators": "Ann1,Ann2", "annotations": "0,1"}
        >>> [(row["annotator"], row["labels"]) for row in item_labels("7", item, "", "hs", Tally())]
        [('Ann1', ['0']), ('Ann2', ['1'])]
    """
    if not isinstance(item, Mapping) or "annotations" not in item:
        raise RowError("annotations", f"found {one_line(item)}, expected an item with text and annotations")
    given = item["annotations"]
    labels = _list(given, "annotations")
    people = list(given) if isinstance(given, Mapping) else _list(item.get("annotators"), "annotators")
    if people and len(people) != len(labels):
        raise RowError("annotators", f"found {len(people)} annotators for {len(labels)} labels: expected one for each")
    for at, label in enumerate(labels):
        if label in ("", "-1", "nan"):
            tally.left_out["empty labels"] += 1
            continue
        yield {
            "id": f"{source}/{name}/{at + 1}",
            "prompt": prompt,
            "responses": [item.get("text")],
            "labels": [label],
            "annotator": people[at] if people else None,
            "source": source,
        }


def _list(value: Any, column: str) -> list[str]:
    if isinstance(value, Mapping):  # since 2025: annotator to label
        return [str(each) for each in value.values()]
    if value is None or isinstance(value, str):
        return names_in(value or "")
    if not isinstance(value, list):
        raise RowError(column, f"found {one_line(value)}, expected a list, or names separated by commas")
    return [str(each) for each in value]
