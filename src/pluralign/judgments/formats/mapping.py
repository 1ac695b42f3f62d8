"""Any table, described by a YAML file: which columns hold the prompt, the responses, and the ranks or labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.numbers import exact_number
from pluralign.core.progress import track
from pluralign.core.yaml_lines import Value, read_yaml_lines
from pluralign.judgments.blocks import Block, Item, block_of
from pluralign.judgments.chats import in_one_form
from pluralign.judgments.columns import Unfit
from pluralign.judgments.formats.convert import Tally
from pluralign.judgments.formats.mapping_columns import mapped_columns
from pluralign.judgments.formats.templates import Tables, Template, word
from pluralign.judgments.rows import columns_of, expected_rows, read_blocks, read_rows
from pluralign.judgments.scales import LabelScale, label_scale, scale_of_yaml
from pluralign.judgments.schema import ranks_from_scores

PLAIN = ("id", "annotator", "source", "group")
OUTCOMES = ("ranks", "places", "scores", "choice", "pairwise", "labels")
"""The keys that say how a row gives ranks or labels; each judgment has exactly one."""
NOT_GIVEN = "judgments without ranks or labels (nothing was given)"
COLUMNS_OF_A_VOTE = ("prompt", *PLAIN, "weight", "time", "strength")
OF_A_VOTE = (*COLUMNS_OF_A_VOTE, "responses", *OUTCOMES, "choices", "label_map", "strength_map", "each")
KEYS = (*OF_A_VOTE, "votes", "tables", "label_scale", "group_by")
MADE = ("rows", "each", "each_number")
"""Columns that a mapping itself adds to a row: the rows of its group, an element of a list, and its number."""

_Templates = Sequence[Template] | Template
"""A template per value, or one template that gives a list."""

_Outcome = Callable[[list[Any], int], dict[str, Any] | None]
"""The values in a row and the number of responses to `ranks` or `labels`; `None` if the row gives none."""


@dataclass(frozen=True)
class _Vote:
    """How one judgment is made from a row: its columns, its responses, and its outcome from the values of `kind`."""

    columns: Mapping[str, Template]
    responses: _Templates
    kind: str
    values: _Templates
    outcome: _Outcome
    each: Template | None = None  # a list in the row: one judgment for each of its elements
    strengths: Mapping[str, Value] | None = None  # the strength for each value of its template; `None`: the value


@dataclass(frozen=True)
class MappingFile:
    """A mapping that was read and checked."""

    path: Path  # the YAML file
    votes: Sequence[_Vote]  # the judgments that each row makes
    templates: Sequence[Template]  # all templates in it, for checking columns
    tables: Mapping[str, tuple[Value, Value]]  # joined tables: name to (file name, key column), with their places
    scale: LabelScale | None  # the label scale, or `None`
    group_by: Template | None = None  # rows with equal values are read as one row


def read_mapping_file(path: str | Path | None) -> MappingFile:
    """Read and check the mapping file that `--mapping` names: a path, or a name from `packaged_mappings`.

    Raises:
        PluralignError: no file is named, a key is unknown (the nearest one is named) or missing, or a value has the
            wrong type; names the line.
    """
    if path is None:
        raise PluralignError("the format 'mapping' needs --mapping FILE.yaml")
    path = _mapping_path(path)
    root = read_yaml_lines(path)
    keys = _keys_of(root, KEYS, "a mapping")
    tables = {}
    for name, described in _keys_of(keys["tables"], None, "tables").items() if "tables" in keys else ():
        inner = _keys_of(described, ("file", "key"), f"table {name}")
        for needed in ("file", "key"):
            if needed not in inner or not isinstance(inner[needed].content, str):
                raise described.complain(f"expected '{needed}: NAME'")
        tables[str(name)] = (inner["file"], inner["key"])
    templates: list[Template] = []

    def template(value: Value) -> Template:
        made = Template.of(value, list(tables))
        templates.append(made)
        return made

    base = {key: value for key, value in keys.items() if key in OF_A_VOTE}
    overrides: list[dict[str, Value]] = [{}]
    if "votes" in keys:
        if not isinstance(keys["votes"].content, list):
            raise keys["votes"].complain("expected a list, one entry per judgment of a row")
        overrides = [_keys_of(value, OF_A_VOTE, "a vote") for value in keys["votes"].content]
    votes = [_vote(root, _overridden(base, over), template) for over in overrides]
    scale = None
    if "label_scale" in keys:
        described = keys["label_scale"]
        given = described.plain()
        beside = Path(path).parent / str(given)
        try:
            if isinstance(described.content, dict):
                scale = scale_of_yaml(described)
            else:
                scale = label_scale(beside if isinstance(given, str) and beside.is_file() else str(given))
        except PluralignError as complaint:
            raise keys["label_scale"].complain(str(complaint)) from complaint
    group_by = template(keys["group_by"]) if "group_by" in keys else None
    return MappingFile(path, votes, templates, tables, scale, group_by)


def packaged_mappings() -> dict[str, Path]:
    """The mappings that come with the library, by name."""
    return {file.stem: file for file in sorted((Path(__file__).parent / "mappings").glob("*.yaml"))}


def _mapping_path(given: str | Path) -> Path:
    path, known = Path(given), packaged_mappings()
    if str(given) in known and not path.exists():
        return known[str(given)]
    if path.suffix.lower() not in (".yaml", ".yml") and not path.exists():
        names = ", ".join(known)
        expected = f"expected a .yaml file or one of {names}{nearest(str(given), known)}"
        raise PluralignError(f"--mapping: found '{given}', {expected}")
    return path


def read_mapping(path: Path, mapping: MappingFile, tally: Tally | None = None) -> Iterator[Block]:
    """Format `mapping`: stream a file through a mapping, column by column where the mapping and the file allow it.

    Args:
        path: CSV, TSV, JSON, JSON Lines or Parquet.
        mapping: from `read_mapping_file`.
        tally: counts rows, and judgments without ranks or labels.

    Raises:
        PluralignError: a column of the mapping is not in the file's header, or a joined table cannot be read.
    """
    tally = Tally() if tally is None else tally
    tables = {name: _joined(path, mapping, name) for name in mapping.tables}
    columns = columns_of(path)
    if columns is not None:
        headers = {name: list({key: None for row in table.values() for key in row}) for name, table in tables.items()}
        for template in mapping.templates:
            template.check_columns([*columns, *MADE], headers)
    blocks = _counted(track(read_blocks(path), f"Importing {path.name}", expected_rows(path), len), tally)
    for block in blocks if mapping.group_by is None else _grouped(blocks, mapping.group_by, tables):
        made = _mapped_block(block, mapping, tally)
        yield _row_by_row(block, mapping, tables, tally) if made is None else made


def _counted(blocks: Iterable[Block], tally: Tally) -> Iterator[Block]:
    for block in blocks:
        tally.rows += len(block)
        yield block


def _grouped(blocks: Iterable[Block], key: Template, tables: Tables) -> Iterator[Block]:
    """The rows with equal keys as one row each: the columns of the first, and all of them as `rows`."""
    groups: dict[str, tuple[int, list[Any]]] = {}
    faults: list[Item] = []
    for block in blocks:
        for number, row, complaint in block.items(range(len(block))):
            try:
                if complaint is not None:
                    raise complaint
                groups.setdefault(word(key.render(row, tables)), (number, []))[1].append(row)
            except RowError as fault:
                faults.append((number, row, fault))
    made = [(number, {**rows[0], "rows": rows}, None) for number, rows in groups.values()]
    yield block_of(sorted([*faults, *made], key=lambda item: item[0]))


def _mapped_block(block: Block, mapping: MappingFile, tally: Tally) -> Block | None:
    """The judgments of a block by operations on columns; `None` if the mapping or the columns are not simple."""
    vote = mapping.votes[0]
    if len(mapping.votes) > 1 or block.columns is None or vote.each or isinstance(vote.responses, Template):
        return None
    try:
        made = mapped_columns(
            block.columns,
            vote.columns,
            vote.responses,
            [vote.values] if isinstance(vote.values, Template) else vote.values,
            vote.outcome,
            partial(_column_value, vote),
        )
    except (Unfit, pa.ArrowException):
        return None
    if left := len(block) - len(made.places):
        tally.left_out[NOT_GIVEN] += left

    def items(places: Sequence[int]) -> list[Item]:
        return [_made(vote, item, tables={}) for item in block.items(made.places[places].tolist())]

    return Block(items, len(made.places), made.columns, made.doubtful)


def _row_by_row(block: Block, mapping: MappingFile, tables: Tables, tally: Tally) -> Block:
    held = []
    for item in block.items(range(len(block))):
        for vote in mapping.votes if item[2] is None else mapping.votes[:1]:
            for number, row, complaint in map(partial(_made, vote, tables=tables), _elements(vote, item, tables)):
                if row is None and complaint is None:
                    tally.left_out[NOT_GIVEN] += 1
                else:
                    held.append((number, row, complaint))
    return block_of(held)


def _elements(vote: _Vote, item: Item, tables: Tables) -> list[Item]:
    """The row once for each element of the list that `each` names, or the row itself."""
    number, row, complaint = item
    if vote.each is None or complaint is not None:
        return [item]
    try:
        elements = vote.each.render(row, tables)
        if not isinstance(elements, list):
            raise RowError("each", f"found {one_line(elements)}, expected a list")
    except RowError as fault:
        return [(number, row, fault)]
    return [(number, {**row, "each": each, "each_number": at}, None) for at, each in enumerate(elements, start=1)]


def _made(vote: _Vote, item: Item, tables: Tables) -> Item:
    """The judgment that a vote makes of a source row, or that row with an error; a row of `None` gives none."""
    number, row, complaint = item
    if complaint is not None:
        return item
    try:
        return number, _judgment(vote, row, tables), None
    except RowError as fault:
        return number, row, fault


def _overridden(base: Mapping[str, Value], override: Mapping[str, Value]) -> dict[str, Value]:
    """The keys of one vote: an outcome of its own replaces the one of the whole mapping."""
    own = any(key in override for key in OUTCOMES)
    return {**{key: value for key, value in base.items() if not (own and key in OUTCOMES)}, **override}


def joined_places(path: Path, mapping: MappingFile, name: str) -> list[Path]:
    """Where a joined table is looked for: beside the data, then beside the mapping."""
    return [folder / mapping.tables[name][0].content for folder in (path.parent, mapping.path.parent)]


def _joined(path: Path, mapping: MappingFile, name: str) -> dict[str, Mapping[str, Any]]:
    """A joined table in memory, from a file beside the data or else beside the mapping."""
    file, key = mapping.tables[name]
    source = next((place for place in joined_places(path, mapping, name) if place.is_file()), None)
    if source is None:
        places = map(str, dict.fromkeys(joined_places(path, mapping, name)))
        raise file.complain(f"no file {' or '.join(places)}")
    table: dict[str, Mapping[str, Any]] = {}
    for number, row in read_rows(source):
        if key.content not in row:
            raise key.complain(f"{source} has no column '{key.content}'{nearest(key.content, row)}")
        if word(row[key.content]) in table:
            repeated = RowError(
                key.content, f"{one_line(row[key.content])} appears twice: keys of a join must be unique"
            )
            raise repeated.at(source, number)
        table[word(row[key.content])] = row
    return table


def _vote(root: Value, keys: Mapping[str, Value], template: Callable[[Value], Template]) -> _Vote:
    if "responses" not in keys:
        raise root.complain("the key 'responses' is missing")
    kinds = [key for key in OUTCOMES if key in keys]
    if len(kinds) != 1:
        raise root.complain(f"expected one of {', '.join(OUTCOMES)} for each judgment, found {kinds or 'none'}")
    kind = kinds[0]
    columns = {key: template(keys[key]) for key in COLUMNS_OF_A_VOTE if key in keys}
    responses = _one_or_list(keys["responses"], template)
    described, outcome = keys[kind], _OUTCOMES[kind]
    if kind == "choice":
        if "choices" not in keys:
            raise described.complain("'choice' needs 'choices', which give the ranks for each value")
        values: _Templates = [template(described)]
        outcome = partial(outcome, _choice_ranks(keys["choices"]))
    elif kind == "pairwise":
        described, points = _pairwise_points(described)
        values, outcome = _one_or_list(described, template), partial(outcome, points)
    else:
        values = _one_or_list(described, template)
        if kind == "labels":
            outcome = partial(outcome, _words_of(keys["label_map"]) if "label_map" in keys else {})
    each = template(keys["each"]) if "each" in keys else None
    strengths = _words_of(keys["strength_map"]) if "strength_map" in keys else None
    return _Vote(columns, responses, kind, values, outcome, each, strengths)


def _judgment(vote: _Vote, row: Mapping[str, Any], tables: Tables) -> dict[str, Any] | None:
    responses = _values_of(vote.responses, row, tables, "responses")
    outcome = vote.outcome(_values_of(vote.values, row, tables, vote.kind), len(responses))
    if outcome is None:
        return None
    made: dict[str, Any] = {"responses": responses, **outcome}
    for key, template in vote.columns.items():
        made[key] = _column_value(vote, key, template.render(row, tables))
    made["prompt"], made["responses"] = in_one_form(made.get("prompt"), responses)
    return made


def _column_value(vote: _Vote, key: str, value: Any) -> Any:
    """The value of a column of the table."""
    if key == "strength":
        if vote.strengths is not None:
            known = vote.strengths.get(word(value))
            value = None if known is None else known.plain()
        return None if _is_blank(value) else abs(_number(value, "strength"))
    if key == "time":
        return None if _is_blank(value) else value
    if key in PLAIN:
        return _name(value, key)
    if key == "weight":
        return None if _is_blank(value) else _number(value, "weight")
    return value


def _name(value: Any, column: str) -> str | None:
    if isinstance(value, list | Mapping) or (isinstance(value, float) and not math.isfinite(value)):
        raise RowError(column, f"found {one_line(value)}, expected a name or a number")
    return None if _is_blank(value) else word(value)


def _keys_of(value: Value, known: Sequence[str] | None, what: str) -> dict[str, Value]:
    """The keys and values of a mapping, with every key among `known` (`None`: any)."""
    if not isinstance(value.content, dict):
        raise value.complain(f"found {one_line(value.plain())}, expected keys and values for {what}")
    for name, inner in value.content.items():
        if known is not None and name not in known:
            raise inner.complain(f"unknown key '{name}'{nearest(str(name), known)}: {what} may have {', '.join(known)}")
    return dict(value.content)


def _words_of(value: Value) -> dict[str, Value]:
    """The values by key, the keys as words."""
    words: dict[str, Value] = {}
    for key, inner in _keys_of(value, None, value.key).items():
        if word(key) in words:
            raise inner.complain(f"'{word(key)}' appears twice, once as a word and once as a number or truth value")
        words[word(key)] = inner
    return words


def _one_or_list(value: Value, template: Callable[[Value], Template]) -> _Templates:
    if isinstance(value.content, list):
        return [template(item) for item in value.content]
    return template(value)


def _values_of(templates: _Templates, row: Mapping[str, Any], tables: Tables, column: str) -> list[Any]:
    if not isinstance(templates, Template):
        return [template.render(row, tables) for template in templates]
    values = templates.render(row, tables)
    if not isinstance(values, list):
        raise RowError(column, f"found {one_line(values)}, expected a list, since the mapping gives one field for all")
    return values


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Any, column: str) -> int | float:
    """A finite number, also from text; whole numbers exactly."""
    number = exact_number(value)
    if number is None:
        raise RowError(column, f"found {one_line(value)}, expected a finite number")
    return number


def _ranks(values: list[Any], responses: int) -> dict[str, Any] | None:
    """Ranks as they are in the row."""
    ranks = [None if _is_blank(value) else _number(value, "ranks") for value in values]
    return {"ranks": ranks} if any(rank is not None for rank in ranks) else None


def _scores(values: list[Any], responses: int) -> dict[str, Any] | None:
    """Scores, higher is better; equal ones tie."""
    if len(values) != responses:
        raise RowError("scores", f"found {len(values)} scores for {responses} responses: give one per response")
    blank = [_is_blank(value) for value in values]
    if all(blank):
        return None
    if any(blank):
        # Not `null`: that would mean "shown, and worse than the others", which a missing score does not.
        raise RowError("scores", f"response {blank.index(True) + 1} has no score: give one per response, or none")
    return {"ranks": ranks_from_scores([_number(value, "scores") for value in values])}


def _places(values: list[Any], responses: int) -> dict[str, Any] | None:
    """Places, lower is better, from any number; equal ones tie, and a blank one is not ranked."""
    if len(values) != responses:
        raise RowError("places", f"found {len(values)} places for {responses} responses: give one per response")
    places = [None if _is_blank(value) else -_number(value, "places") for value in values]
    return {"ranks": ranks_from_scores(places)} if any(place is not None for place in places) else None


def _labels(names: Mapping[str, Value], values: list[Any], responses: int) -> dict[str, Any] | None:
    """Labels, renamed by `names` where it lists them."""
    labels = [None if _is_blank(value) else value for value in values]
    labels = [names[word(label)].content if word(label) in names else label for label in labels]
    return {"labels": labels} if any(label is not None for label in labels) else None


def _choice_ranks(choices: Value) -> dict[str, list[Any]]:
    """The ranks that each value stands for."""
    ranks = {key: value.plain() for key, value in _words_of(choices).items()}
    for key, given in ranks.items():
        if not isinstance(given, list):
            raise choices.complain(f"for {key}: found {one_line(given)}, expected ranks like [1, 2]")
    return ranks


def _choice(ranks: Mapping[str, list[Any]], values: list[Any], responses: int) -> dict[str, Any] | None:
    (value,) = values
    if _is_blank(value):
        return None
    text = word(value)
    if text not in ranks:
        raise RowError("choice", f"found {one_line(value)}, expected one of {', '.join(ranks)}{nearest(text, ranks)}")
    return {"ranks": ranks[text]}


def _pairwise_points(described: Value) -> tuple[Value, dict[str, tuple[float, float]]]:
    """The values of the comparisons, and the points that each one gives to the first and the second response."""
    keys = _keys_of(described, ("values", "first", "second", "tie"), "pairwise")
    for needed in ("values", "first", "second"):
        if needed not in keys:
            raise described.complain(f"the key '{needed}' is missing")
    meanings = {"first": (1.0, 0.0), "second": (0.0, 1.0), "tie": (0.5, 0.5)}
    given = {key: word(keys[key].plain()) for key in meanings if key in keys}
    if len(set(given.values())) < len(given):
        raise described.complain("'first', 'second' and 'tie' must differ")
    return keys["values"], {given[key]: meanings[key] for key in given}


def _pairwise(points: Mapping[str, tuple[float, float]], values: list[Any], responses: int) -> dict[str, Any] | None:
    """Comparisons of all pairs, which must agree with a ranking by wins."""
    pairs = list(combinations(range(responses), 2))
    if len(values) != len(pairs):
        expected = f"expected {len(pairs)} for {responses} responses"
        raise RowError("pairwise", f"found {len(values)} comparisons, {expected}")
    wins = [0.0] * responses
    for (first, second), value in zip(pairs, values, strict=True):
        if word(value) not in points:
            raise RowError("pairwise", f"found {one_line(value)}, expected one of {', '.join(points)}")
        wins[first] += points[word(value)][0]
        wins[second] += points[word(value)][1]
    # Ties need not be transitive (1 ~ 2, 2 ~ 3, 1 > 3): then wins decide, and only strict comparisons bind.
    for (first, second), value in zip(pairs, values, strict=True):
        lead = points[word(value)][0] - points[word(value)][1]
        if lead * (wins[first] - wins[second]) <= 0 and lead != 0:
            contradiction = f"the comparison of {first + 1} and {second + 1} contradicts the others"
            raise RowError("pairwise", f"{contradiction}: no ranking fits")
    return {"ranks": ranks_from_scores(wins)}


_OUTCOMES: dict[str, Callable[..., dict[str, Any] | None]] = {
    "ranks": _ranks, "places": _places, "scores": _scores, "choice": _choice, "pairwise": _pairwise, "labels": _labels
}  # fmt: skip
