"""Label Studio exports: comparisons (Pairwise), rankings (Ranker), and labels of one response (Rating, Choices)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pluralign.core.errors import RowError, nearest, one_line
from pluralign.judgments.chats import in_one_form
from pluralign.judgments.formats.arena import epoch_time
from pluralign.judgments.formats.convert import (
    Rows,
    Tally,
    convert_rows,
    field_value,
    named_fields,
    names_in,
)
from pluralign.judgments.formats.templates import word
from pluralign.judgments.validation import Reject

FIELDS = {
    "prompt": "prompt",
    "left": "answer1",
    "right": "answer2",
    "items": "items",
    "response": "response",
    "text": "",
    "buckets": "",
    "control": "",
}
"""The keys of `--field`, with the names in Label Studio's own templates."""

LEFTOVER = "_"  # the bucket of items that were put into no bucket

_KEYS = {"pairwise": "selected", "ranker": "ranker"}  # the types of controls that are read: the key of their value
_LABELLED = {"rating": "rating", "choices": "choices"}  # those that are read with a label scale


def read_label_studio(
    path: Path,
    reject: Reject | None = None,
    tally: Tally | None = None,
    fields: Sequence[str] = (),
    labelled: bool = False,
) -> Rows:
    """Format `label-studio`: a judgment for every comparison, ranking or label in every annotation.

    Args:
        path: an export as JSON or JSON-MIN.
        reject: called with each bad task or annotation; `None` raises.
        tally: counts tasks, and what gives no judgment: cancelled annotations, drafts, predictions, other controls.
        fields: `KEY=NAME` each. `prompt`, `left`, `right` and `items` are fields of the task's data; `text` is the
            key of an item's text (default: `body`, else `html`, else `title`); `buckets` are the buckets of a Ranker,
            best first, separated by commas; `control` names the controls to read (default: all). `response` is the
            field with the text of a Rating or of Choices.
        labelled: read Rating and Choices too: their values are labels.

    Raises:
        PluralignError: a field is not well-formed, the file cannot be read, or a task is bad and `reject` is `None`.
    """
    names = named_fields(fields, FIELDS)
    counts = Tally() if tally is None else tally
    compared: dict[str, str] = {}
    kinds = {**_KEYS, **_LABELLED} if labelled else _KEYS
    return convert_rows(path, lambda task: task_judgments(task, names, counts, compared, kinds), reject, counts)


def task_judgments(
    task: Mapping[str, Any],
    names: Mapping[str, str],
    tally: Tally,
    compared: dict[str, str],
    kinds: Mapping[str, str] = _KEYS,
) -> Iterator[dict[str, Any] | RowError]:
    """The judgments of one task. `compared` collects the objects that controls of each type compare.

    Examples:
        >>> task = {"data": {"prompt": "Tea?", "answer1": "Yes", "answer2": "No"}, "annotations": [
        ...     {"completed_by": 7, "result": [
        ...         {"type": "pairwise", "from_name": "better", "value": {"selected": "right"}}]}]}
        >>> made, = task_judgments(task, FIELDS, Tally(), {})
        >>> made["responses"], made["ranks"], made["annotator"], made["source"]
        (['Yes', 'No'], [2, 1], 7, 'better')
    """
    key = "completions" if "annotations" not in task and "completions" in task else "annotations"  # 0.x
    data, annotations = (task.get("data"), task[key]) if key in task else _minimal(task, kinds)
    if not isinstance(data, Mapping):
        raise RowError("data", f"found {one_line(data)}, expected the fields of the task")
    if not isinstance(annotations, list):
        raise RowError("annotations", f"found {one_line(annotations)}, expected a list")
    if not annotations:
        tally.left_out["tasks without an annotation"] += 1
    for key in ("predictions", "drafts"):
        if data is not task and isinstance(task.get(key), list) and task[key]:
            tally.left_out[key] += len(task[key])
    for number, annotation in enumerate(annotations):
        place = f"annotations.{number}"
        if not isinstance(annotation, Mapping):
            yield RowError(place, f"found {one_line(annotation)}, expected an annotation with its result")
        elif annotation.get("was_cancelled") or annotation.get("skipped"):
            tally.left_out["annotations that were cancelled (skipped)"] += 1
        else:
            yield from _annotation(annotation, data, place, names, tally, compared, kinds)


def _minimal(task: Mapping[str, Any], kinds: Mapping[str, str]) -> tuple[Mapping[str, Any], Sequence[Any]]:
    """A row of JSON-MIN, which mixes the data with the results and metadata of one annotation, as a whole task."""
    if "annotation_id" not in task:
        raise RowError("annotations", "is missing: expected a task as Label Studio exports it (JSON or JSON-MIN)")
    results = [
        {"from_name": name, "type": kind, "value": value}
        for name, values in task.items()
        if isinstance(values, list)
        for value in values
        for kind, key in kinds.items()
        if isinstance(value, Mapping) and key in value
    ]
    annotator = task.get("annotator") if task.get("annotator") != "None" else None  # "None" is an unknown annotator
    annotation = {"completed_by": annotator, "created_at": task.get("created_at"), "result": results}
    return task, [] if task["annotation_id"] is None else [annotation]


def _annotation(
    annotation: Mapping[str, Any],
    data: Mapping[str, Any],
    place: str,
    names: Mapping[str, str],
    tally: Tally,
    compared: dict[str, str],
    kinds: Mapping[str, str],
) -> Iterator[dict[str, Any] | RowError]:
    results = annotation.get("result")
    if not isinstance(results, list):
        yield RowError(f"{place}.result", f"found {one_line(results)}, expected a list")
        return
    if not results:
        tally.left_out["annotations without a result"] += 1
    wanted, seen = names_in(names["control"]), set()
    for number, result in enumerate(results):
        at = f"{place}.result.{number}"
        try:
            if not isinstance(result, Mapping):
                raise RowError(at, f"found {one_line(result)}, expected a result")
            kind, control = str(result.get("type")), str(result.get("from_name", ""))
            if kind not in kinds or (wanted and control not in wanted):
                tally.left_out[f"results of the control '{control}' ({kind})"] += 1
                continue
            if control in seen:
                raise RowError(f"{at}.from_name", f"'{control}' has a result in this annotation already")
            seen.add(control)
            if not wanted:
                _same_objects(result, compared, at)
            read = {"pairwise": _pair, "ranker": _ranking}.get(kind, _label)
            made = read(result, data, at, names)
            prompt = field_value(data, names["prompt"], "data.", "--field prompt=NAME") if names["prompt"] else ""
            if not any(made.get("ranks") or made["labels"]):
                tally.left_out["empty rankings"] += 1
                continue
            prompt, responses = in_one_form(prompt, made["responses"])
            yield {**made, "prompt": prompt, "responses": responses, **_about(annotation, control)}
        except RowError as complaint:
            yield complaint


def _same_objects(result: Mapping[str, Any], compared: dict[str, str], place: str) -> None:
    """Check that controls of one type compare the same objects, since one set of fields names them."""
    named = result.get("to_name", result.get("from_name"))
    objects = ",".join(map(str, named)) if isinstance(named, list) else str(named)
    before = compared.setdefault(result["type"], objects)
    if before != objects:
        fix = "import the controls separately, each with its own fields, with --field control=NAME"
        raise RowError(f"{place}.to_name", f"found '{objects}' where earlier results have '{before}': {fix}")


def _about(annotation: Mapping[str, Any], control: str) -> dict[str, Any]:
    annotator = annotation.get("completed_by")
    if isinstance(annotator, Mapping):
        email = annotator.get("email")
        annotator = annotator.get("id") if email in (None, "") else email
    # Numbers of annotations start from 1 on every server; only the long id is unique.
    unique = annotation.get("unique_id")
    key = f"{unique}/{control}" if unique else None
    time = epoch_time(annotation.get("created_at"), "created_at")
    return {"id": key, "annotator": annotator, "source": control or None, "time": time}


def _value(result: Mapping[str, Any], place: str, key: str) -> Any:
    value = result.get("value")
    if not isinstance(value, Mapping) or key not in value:
        raise RowError(f"{place}.value", f"found {one_line(value)}, expected '{key}' in it")
    return value[key]


def _pair(result: Mapping[str, Any], data: Mapping[str, Any], place: str, names: Mapping[str, str]) -> dict[str, Any]:
    selected = _value(result, place, "selected")
    if selected not in ("left", "right"):
        raise RowError(f"{place}.value.selected", f"found {one_line(selected)}, expected left or right")
    sides = [field_value(data, names[side], "data.", f"--field {side}=NAME") for side in ("left", "right")]
    return {"responses": sides, "ranks": [1, 2] if selected == "left" else [2, 1]}


def _label(result: Mapping[str, Any], data: Mapping[str, Any], place: str, names: Mapping[str, str]) -> dict[str, Any]:
    value = _value(result, place, _LABELLED[str(result["type"])])
    if isinstance(value, list):
        if len(value) != 1:
            raise RowError(f"{place}.value.choices", f"found {one_line(value)}, expected one choice")
        value = value[0]
    text = field_value(data, names["response"], "data.", "--field response=NAME")
    return {"responses": [text], "labels": [value]}


def _ranking(
    result: Mapping[str, Any], data: Mapping[str, Any], place: str, names: Mapping[str, str]
) -> dict[str, Any]:
    texts = _texts(field_value(data, names["items"], "data.", "--field items=NAME"), names)
    ranker, place = _value(result, place, "ranker"), f"{place}.value.ranker"
    if not isinstance(ranker, Mapping) or not all(isinstance(ids, list) for ids in ranker.values()):
        raise RowError(place, f"found {one_line(ranker)}, expected a list of ids for every bucket")
    buckets = _buckets(ranker, result, names, place)
    order = [word(each) for bucket in buckets for each in ranker.get(bucket, ())]
    everything = [word(each) for ids in ranker.values() for each in ids]
    for each in everything:
        if each not in texts:
            raise RowError(place, f"ranks {one_line(each)}, which is not the id of an item{nearest(each, texts)}")
        if everything.count(each) > 1:
            raise RowError(place, f"ranks {one_line(each)} twice: expected every item once")
    if not names["buckets"] and len(order) < len(texts):
        raise RowError(place, f"ranks {len(order)} of the {len(texts)} items: a Ranker without buckets ranks all")
    places = {each: number for number, each in enumerate(order, start=1)}
    return {"responses": list(texts.values()), "ranks": [places.get(each) for each in texts]}


def _buckets(
    ranker: Mapping[str, Any], result: Mapping[str, Any], names: Mapping[str, str], place: str
) -> Sequence[str]:
    """The buckets from best to worst; a Ranker without buckets has one list, under its own name."""
    named = names_in(names["buckets"])
    if not named and list(ranker) == [result.get("from_name")]:
        return list(ranker)
    unknown = [bucket for bucket in ranker if bucket not in named and bucket != LEFTOVER]
    if unknown or not named:
        fix = f"name all but '{LEFTOVER}', best first, with --field buckets=BEST,...,WORST"
        raise RowError(place, f"has the buckets {', '.join(map(str, ranker))}: {fix}")
    return named


def _texts(items: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """The texts of the items by their ids."""
    place = f"data.{names['items']}"
    if not isinstance(items, list) or not items:
        raise RowError(place, f"found {one_line(items)}, expected a list of items with id and text")
    keys: Iterable[str] = (names["text"],) if names["text"] else ("body", "html", "title")
    texts: dict[str, Any] = {}
    for number, item in enumerate(items):
        if not isinstance(item, Mapping) or item.get("id") is None:
            raise RowError(f"{place}.{number}", f"found {one_line(item)}, expected an item with an id")
        text = next((item[key] for key in keys if item.get(key) is not None), None)
        if text is None:
            raise RowError(f"{place}.{number}", f"has none of {', '.join(keys)}: use --field text=KEY")
        if word(item["id"]) in texts:
            raise RowError(f"{place}.{number}.id", f"{one_line(item['id'])} appears twice among the items")
        texts[word(item["id"])] = text
    return texts
