"""Any table, described by a small YAML file: which columns are the prompt, the responses and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.yaml_lines import Value, read_yaml_lines
from pluralign.judgments.formats.convert import Rows, Tally, convert_rows
from pluralign.judgments.formats.templates import Tables, Template, word
from pluralign.judgments.rows import columns_of, read_rows
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.validation import Reject

PLAIN = ("id", "annotator", "source", "group", "time")
VERDICTS = ("ranks", "scores", "choice", "pairwise", "labels")
OF_A_VOTE = ("prompt", "responses", *PLAIN, "weight", *VERDICTS, "choices", "label_map")
KEYS = (*OF_A_VOTE, "votes", "tables", "label_scale")

Verdict = Callable[[Mapping[str, Any], Tables, int], dict[str, Any] | None]
"""A row, the joined tables and the number of responses to `ranks` or `labels`; `None` when no vote was cast."""


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
    keys = _keys(root, KEYS, "a mapping")
    tables = {}
    for name, described in _keys(keys["tables"], None, "tables").items() if "tables" in keys else ():
        inner = _keys(described, ("file", "key"), f"table {name}")
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
        overrides = [_keys(value, OF_A_VOTE, "a vote") for value in keys["votes"].content]
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


def read_mapping(
    path: Path, mapping: MappingFile, reject: Reject | None = None, tally: Tally | None = None
) -> Rows:
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
        headers = {
            name: list({key: None for row in table.values() for key in row}) for name, table in tables.items()
        }
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


def _keys(value: Value, known: Sequence[str] | None, what: str) -> dict[str, Value]:
    if not isinstance(value.content, dict):
        raise value.complain(f"found {one_line(value.plain())}, expected keys and values for {what}")
    for name, inner in value.content.items():
        if known is not None and name not in known:
            raise inner.complain(
                f"unknown key '{name}'{nearest(str(name), known)}: {what} may have {', '.join(known)}"
            )
    return dict(value.content)


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
    responses = _one_or_list(keys["responses"], template)
    if kind == "choice":
        if "choices" not in keys:
            raise keys["choice"].complain("'choice' needs 'choices', which give the ranks for each value")
        verdict = _choice(template(keys["choice"]), keys["choices"])
    elif kind == "pairwise":
        verdict = _pairwise(keys["pairwise"], template)
    else:
        values = _one_or_list(keys[kind], template)
        names = _plain_keys(keys["label_map"]) if "label_map" in keys else {}
        verdict = {"ranks": _ranks, "scores": _scores}[kind](values) if kind != "labels" else _labels(values, names)
    return _Vote(templates, responses, verdict)


def _one_or_list(value: Value, template: Callable[[Value], Template]) -> Sequence[Template] | Template:
    if isinstance(value.content, list):
        return [template(item) for item in value.content]
    return template(value)


def _values(
    templates: Sequence[Template] | Template, row: Mapping[str, Any], tables: Tables, column: str
) -> list[Any]:
    if not isinstance(templates, Template):
        return [template.render(row, tables) for template in templates]
    found = templates.render(row, tables)
    if not isinstance(found, list):
        raise RowError(
            column, f"found {one_line(found)}, expected a list, since the mapping gives one field for all"
        )
    return found


def _plain_keys(value: Value) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, inner in _keys(value, None, value.key).items():
        if word(key) in found:
            raise inner.complain(f"'{word(key)}' stands twice, once as a word and once as a number or truth value")
        found[word(key)] = inner
    return found


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Any, column: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(column, f"found {one_line(value)}, expected a finite number")
    return number


def _name(value: Any, column: str) -> str | None:
    if isinstance(value, list | Mapping) or (isinstance(value, float) and not math.isfinite(value)):
        raise RowError(column, f"found {one_line(value)}, expected a name or a number")
    return None if _blank(value) else value if isinstance(value, str) else word(value)


def _judgment(vote: _Vote, row: Mapping[str, Any], tables: Tables) -> dict[str, Any] | None:
    responses = _values(vote.responses, row, tables, "responses")
    verdict = vote.verdict(row, tables, len(responses))
    if verdict is None:
        return None
    made: dict[str, Any] = {"responses": responses, **verdict}
    for key, template in vote.templates.items():
        value = template.render(row, tables)
        if key == "time":
            value = None if _blank(value) else value
        elif key in PLAIN:
            value = _name(value, key)
        elif key == "weight":
            value = None if _blank(value) else _number(value, "weight")
        made[key] = value
    return made


def _ranks(values: Sequence[Template] | Template) -> Verdict:
    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        found = _values(values, row, tables, "ranks")
        ranks = [None if _blank(value) else _number(value, "ranks") for value in found]
        return {"ranks": ranks} if any(rank is not None for rank in ranks) else None

    return verdict


def _scores(values: Sequence[Template] | Template) -> Verdict:
    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        found = _values(values, row, tables, "scores")
        if len(found) != responses:
            raise RowError("scores", f"found {len(found)} scores for {responses} responses: give one per response")
        blank = [_blank(value) for value in found]
        if all(blank):
            return None
        if any(blank):
            # Not `null`: that would say "shown, and worse than the others", which a missing score does not.
            raise RowError(
                "scores", f"response {blank.index(True) + 1} has no score: give one per response, or none"
            )
        return {"ranks": ranks_from_scores([_number(value, "scores") for value in found])}

    return verdict


def _labels(values: Sequence[Template] | Template, names: Mapping[str, Value]) -> Verdict:
    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        found = _values(values, row, tables, "labels")
        labels = [None if _blank(value) else value for value in found]
        labels = [names[word(label)].content if word(label) in names else label for label in labels]
        return {"labels": labels} if any(label is not None for label in labels) else None

    return verdict


def _choice(chosen: Template, choices: Value) -> Verdict:
    ranks = {key: value.plain() for key, value in _plain_keys(choices).items()}
    for key, given in ranks.items():
        if not isinstance(given, list):
            raise choices.complain(f"for {key}: found {one_line(given)}, expected ranks like [1, 2]")

    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        value = chosen.render(row, tables)
        if _blank(value):
            return None
        text = word(value)
        if text not in ranks:
            known = ", ".join(ranks)
            raise RowError("choice", f"found {one_line(value)}, expected one of {known}{nearest(text, ranks)}")
        return {"ranks": ranks[text]}

    return verdict


def _pairwise(described: Value, template: Callable[[Value], Template]) -> Verdict:
    keys = _keys(described, ("values", "first", "second", "tie"), "pairwise")
    for needed in ("values", "first", "second"):
        if needed not in keys:
            raise described.complain(f"the key '{needed}' is missing")
    values = _one_or_list(keys["values"], template)
    meanings = {"first": (1.0, 0.0), "second": (0.0, 1.0), "tie": (0.5, 0.5)}
    given = {key: word(keys[key].plain()) for key in meanings if key in keys}
    if len(set(given.values())) < len(given):
        raise described.complain("'first', 'second' and 'tie' must differ")
    points = {given[key]: meanings[key] for key in given}

    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        found = _values(values, row, tables, "pairwise")
        pairs = list(combinations(range(responses), 2))
        if len(found) != len(pairs):
            raise RowError(
                "pairwise", f"found {len(found)} comparisons, expected {len(pairs)} for {responses} responses"
            )
        wins = [0.0] * responses
        for (first, second), value in zip(pairs, found, strict=True):
            if word(value) not in points:
                raise RowError("pairwise", f"found {one_line(value)}, expected one of {', '.join(points)}")
            wins[first] += points[word(value)][0]
            wins[second] += points[word(value)][1]
        # Ties need not be transitive (1 ~ 2, 2 ~ 3, 1 > 3): then the wins decide, and only strict votes bind.
        for (first, second), value in zip(pairs, found, strict=True):
            lead = points[word(value)][0] - points[word(value)][1]
            if lead * (wins[first] - wins[second]) <= 0 and lead != 0:
                raise RowError(
                    "pairwise",
                    f"the comparison of {first + 1} and {second + 1} goes against the others: no ranking fits",
                )
        return {"ranks": ranks_from_scores(wins)}

    return verdict


def mapping_of(path: str | None) -> MappingFile:
    """The mapping that `--mapping` names.

    Raises:
        PluralignError: none was named, or it cannot be read.
    """
    if path is None:
        raise PluralignError("the format 'mapping' needs --mapping FILE.yaml")
    return read_mapping_file(Path(path))
