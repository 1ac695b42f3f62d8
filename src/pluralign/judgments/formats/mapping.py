"""Any table, described by a small YAML file: which columns are the prompt, the responses and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.yaml_lines import Value, read_yaml_lines
from pluralign.judgments.formats.convert import Rows, Tally, convert_rows
from pluralign.judgments.formats.templates import Tables, Template, word
from pluralign.judgments.formats.verdicts import (
    Verdict,
    choice_verdict,
    is_blank,
    keys_of,
    labels_verdict,
    number_of,
    one_or_list,
    pairwise_verdict,
    ranks_verdict,
    scores_verdict,
    values_of,
    words_of,
)
from pluralign.judgments.rows import columns_of, read_rows
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.validation import Reject

PLAIN = ("id", "annotator", "source", "group", "time")
VERDICTS = ("ranks", "scores", "choice", "pairwise", "labels")
OF_A_VOTE = ("prompt", "responses", *PLAIN, "weight", *VERDICTS, "choices", "label_map")
KEYS = (*OF_A_VOTE, "votes", "tables", "label_scale")


@dataclass(frozen=True)
class _Vote:
    """How one judgment is made from a row."""

    templates: Mapping[str, Template]
    responses: Sequence[Template] | Template
    verdict: Verdict


@dataclass(frozen=True)
class MappingFile:
    """A mapping, read and checked.

    Args:
        path: the YAML file.
        votes: the judgments that each row makes.
        templates: all templates in it, for checking columns.
        tables: joined tables: name to (file name, key column), with their places.
        scale: the label scale, or `None`.
    """

    path: Path
    votes: Sequence[_Vote]
    templates: Sequence[Template]
    tables: Mapping[str, tuple[Value, Value]]
    scale: LabelScale | None


def read_mapping_file(path: Path) -> MappingFile:
    """Read and check a mapping file.

    Raises:
        PluralignError: an unknown key (the nearest one is named), a missing one, or a value of the wrong kind;
            with the line.
    """
    root = read_yaml_lines(path)
    keys = keys_of(root, KEYS, "a mapping")
    tables = {}
    for name, described in keys_of(keys["tables"], None, "tables").items() if "tables" in keys else ():
        inner = keys_of(described, ("file", "key"), f"table {name}")
        for needed in ("file", "key"):
            if needed not in inner or not isinstance(inner[needed].content, str):
                raise described.complain(f"expected '{needed}: NAME'")
        tables[str(name)] = (inner["file"], inner["key"])
    found: list[Template] = []

    def template(value: Value) -> Template:
        made = Template.of(value, list(tables))
        found.append(made)
        return made

    base = {key: value for key, value in keys.items() if key in OF_A_VOTE}
    overrides: list[dict[str, Value]] = [{}]
    if "votes" in keys:
        if not isinstance(keys["votes"].content, list):
            raise keys["votes"].complain("expected a list, one entry per judgment of a row")
        overrides = [keys_of(value, OF_A_VOTE, "a vote") for value in keys["votes"].content]
    votes = [_vote(root, {**_without_verdict(base, over), **over}, template) for over in overrides]
    scale = None
    if "label_scale" in keys:
        given = keys["label_scale"].plain()
        beside = path.parent / str(given)
        try:
            scale = label_scale(beside if isinstance(given, str) and beside.is_file() else given)
        except PluralignError as complaint:
            raise keys["label_scale"].complain(str(complaint)) from complaint
    return MappingFile(path, votes, found, tables, scale)


def read_mapping(path: Path, mapping: MappingFile, reject: Reject | None = None, tally: Tally | None = None) -> Rows:
    """Format `mapping`: stream a file through a mapping.

    Args:
        path: CSV, TSV, JSON, JSON Lines or Parquet.
        mapping: from `read_mapping_file`.
        reject: what to do with a bad row; `None` raises.
        tally: where rows are counted, and votes that were not cast.

    Raises:
        PluralignError: a column of the mapping is not in the file's header, or a joined table cannot be read.
    """
    tally = Tally() if tally is None else tally
    tables = {name: _joined(path, mapping, name) for name in mapping.tables}
    columns = columns_of(path)
    if columns is not None:
        headers = {name: list({key: None for row in table.values() for key in row}) for name, table in tables.items()}
        for template in mapping.templates:
            template.check_columns(columns, headers)

    def convert(row: dict[str, Any]) -> Iterator[dict[str, Any] | RowError]:
        for vote in mapping.votes:
            try:
                made = _judgment(vote, row, tables)
            except RowError as complaint:
                made = complaint  # type: ignore[assignment]
            if made is None:
                tally.left_out["votes that were not cast (the verdict is empty)"] += 1
            else:
                yield made

    return convert_rows(path, convert, reject, tally)


def _without_verdict(base: Mapping[str, Value], override: Mapping[str, Value]) -> dict[str, Value]:
    """A vote that has a verdict of its own replaces the one above it."""
    own = any(key in override for key in VERDICTS)
    return {key: value for key, value in base.items() if not (own and key in VERDICTS)}


def _joined(path: Path, mapping: MappingFile, name: str) -> dict[str, Mapping[str, Any]]:
    """A joined table in memory, found beside the data or else beside the mapping."""
    file, key = mapping.tables[name]
    places = [folder / file.content for folder in (path.parent, mapping.path.parent)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise file.complain(f"no file {' or '.join(map(str, dict.fromkeys(places)))}")
    table: dict[str, Mapping[str, Any]] = {}
    for number, row in read_rows(found):
        if key.content not in row:
            raise key.complain(f"{found} has no column '{key.content}'{nearest(key.content, row)}")
        if word(row[key.content]) in table:
            raise RowError(key.content, f"{one_line(row[key.content])} stands twice, so a join cannot tell").at(
                found, number
            )
        table[word(row[key.content])] = row
    return table


def _vote(root: Value, keys: Mapping[str, Value], template: Callable[[Value], Template]) -> _Vote:
    if "responses" not in keys:
        raise root.complain("the key 'responses' is missing")
    verdicts = [key for key in VERDICTS if key in keys]
    if len(verdicts) != 1:
        raise root.complain(
            f"expected one verdict ({', '.join(VERDICTS)}) for each judgment, found {verdicts or 'none'}"
        )
    kind = verdicts[0]
    templates = {key: template(keys[key]) for key in ("prompt", *PLAIN, "weight") if key in keys}
    responses = one_or_list(keys["responses"], template)
    if kind == "choice":
        if "choices" not in keys:
            raise keys["choice"].complain("'choice' needs 'choices', which give the ranks for each value")
        verdict = choice_verdict(template(keys["choice"]), keys["choices"])
    elif kind == "pairwise":
        verdict = pairwise_verdict(keys["pairwise"], template)
    else:
        values = one_or_list(keys[kind], template)
        names = words_of(keys["label_map"]) if "label_map" in keys else {}
        verdict = (
            {"ranks": ranks_verdict, "scores": scores_verdict}[kind](values)
            if kind != "labels"
            else labels_verdict(values, names)
        )
    return _Vote(templates, responses, verdict)


def _name(value: Any, column: str) -> str | None:
    if isinstance(value, list | Mapping) or (isinstance(value, float) and not math.isfinite(value)):
        raise RowError(column, f"found {one_line(value)}, expected a name or a number")
    return None if is_blank(value) else value if isinstance(value, str) else word(value)


def _judgment(vote: _Vote, row: Mapping[str, Any], tables: Tables) -> dict[str, Any] | None:
    responses = values_of(vote.responses, row, tables, "responses")
    verdict = vote.verdict(row, tables, len(responses))
    if verdict is None:
        return None
    made: dict[str, Any] = {"responses": responses, **verdict}
    for key, template in vote.templates.items():
        value = template.render(row, tables)
        if key == "time":
            value = None if is_blank(value) else value
        elif key in PLAIN:
            value = _name(value, key)
        elif key == "weight":
            value = None if is_blank(value) else number_of(value, "weight")
        made[key] = value
    return made


def mapping_of(path: str | None) -> MappingFile:
    """The mapping that `--mapping` names.

    Raises:
        PluralignError: none was named, or it cannot be read.
    """
    if path is None:
        raise PluralignError("the format 'mapping' needs --mapping FILE.yaml")
    return read_mapping_file(Path(path))
