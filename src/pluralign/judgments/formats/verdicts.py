"""The verdicts of a mapping: from what stands in a row to ranks or labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from pluralign.core.errors import RowError, nearest, one_line
from pluralign.core.yaml_lines import Value
from pluralign.judgments.formats.templates import Tables, Template, word
from pluralign.judgments.schema import ranks_from_scores

Verdict = Callable[[Mapping[str, Any], Tables, int], dict[str, Any] | None]
"""A row, the joined tables and the number of responses to `ranks` or `labels`; `None` when no vote was cast."""


def keys_of(value: Value, known: Sequence[str] | None, what: str) -> dict[str, Value]:
    """The keys and values of a mapping, every key among `known` (`None`: any).

    Raises:
        PluralignError: it is no mapping, or has an unknown key; the nearest one is named.
    """
    if not isinstance(value.content, dict):
        raise value.complain(f"found {one_line(value.plain())}, expected keys and values for {what}")
    for name, inner in value.content.items():
        if known is not None and name not in known:
            raise inner.complain(f"unknown key '{name}'{nearest(str(name), known)}: {what} may have {', '.join(known)}")
    return dict(value.content)


def words_of(value: Value) -> dict[str, Value]:
    """The keys as words.

    Raises:
        PluralignError: two keys are the same word.
    """
    found: dict[str, Value] = {}
    for key, inner in keys_of(value, None, value.key).items():
        if word(key) in found:
            raise inner.complain(f"'{word(key)}' stands twice, once as a word and once as a number or truth value")
        found[word(key)] = inner
    return found


def one_or_list(value: Value, template: Callable[[Value], Template]) -> Sequence[Template] | Template:
    """One template that gives a list, or a list of templates."""
    if isinstance(value.content, list):
        return [template(item) for item in value.content]
    return template(value)


def values_of(
    templates: Sequence[Template] | Template, row: Mapping[str, Any], tables: Tables, column: str
) -> list[Any]:
    """The values that the templates give for a row.

    Raises:
        RowError: one template was to give a list and does not.
    """
    if not isinstance(templates, Template):
        return [template.render(row, tables) for template in templates]
    found = templates.render(row, tables)
    if not isinstance(found, list):
        raise RowError(column, f"found {one_line(found)}, expected a list, since the mapping gives one field for all")
    return found


def is_blank(value: Any) -> bool:
    """Whether nothing was said: null, or text without a sign."""
    return value is None or (isinstance(value, str) and not value.strip())


def number_of(value: Any, column: str) -> float:
    """A finite number, also from text.

    Raises:
        RowError: it is none.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(column, f"found {one_line(value)}, expected a finite number")
    return number


def ranks_verdict(values: Sequence[Template] | Template) -> Verdict:
    """Ranks as they stand in the row."""

    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        found = values_of(values, row, tables, "ranks")
        ranks = [None if is_blank(value) else number_of(value, "ranks") for value in found]
        return {"ranks": ranks} if any(rank is not None for rank in ranks) else None

    return verdict


def scores_verdict(values: Sequence[Template] | Template) -> Verdict:
    """Scores, higher is better; equal ones tie."""

    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        found = values_of(values, row, tables, "scores")
        if len(found) != responses:
            raise RowError("scores", f"found {len(found)} scores for {responses} responses: give one per response")
        blank = [is_blank(value) for value in found]
        if all(blank):
            return None
        if any(blank):
            # Not `null`: that would say "shown, and worse than the others", which a missing score does not.
            raise RowError("scores", f"response {blank.index(True) + 1} has no score: give one per response, or none")
        return {"ranks": ranks_from_scores([number_of(value, "scores") for value in found])}

    return verdict


def labels_verdict(values: Sequence[Template] | Template, names: Mapping[str, Value]) -> Verdict:
    """Labels, renamed by `names` where it knows them."""

    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        found = values_of(values, row, tables, "labels")
        labels = [None if is_blank(value) else value for value in found]
        labels = [names[word(label)].content if word(label) in names else label for label in labels]
        return {"labels": labels} if any(label is not None for label in labels) else None

    return verdict


def choice_verdict(chosen: Template, choices: Value) -> Verdict:
    """One value that stands for ranks."""
    ranks = {key: value.plain() for key, value in words_of(choices).items()}
    for key, given in ranks.items():
        if not isinstance(given, list):
            raise choices.complain(f"for {key}: found {one_line(given)}, expected ranks like [1, 2]")

    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        value = chosen.render(row, tables)
        if is_blank(value):
            return None
        text = word(value)
        if text not in ranks:
            known = ", ".join(ranks)
            raise RowError("choice", f"found {one_line(value)}, expected one of {known}{nearest(text, ranks)}")
        return {"ranks": ranks[text]}

    return verdict


def pairwise_verdict(described: Value, template: Callable[[Value], Template]) -> Verdict:
    """Comparisons of all pairs, which must go with a ranking by wins."""
    keys = keys_of(described, ("values", "first", "second", "tie"), "pairwise")
    for needed in ("values", "first", "second"):
        if needed not in keys:
            raise described.complain(f"the key '{needed}' is missing")
    values = one_or_list(keys["values"], template)
    meanings = {"first": (1.0, 0.0), "second": (0.0, 1.0), "tie": (0.5, 0.5)}
    given = {key: word(keys[key].plain()) for key in meanings if key in keys}
    if len(set(given.values())) < len(given):
        raise described.complain("'first', 'second' and 'tie' must differ")
    points = {given[key]: meanings[key] for key in given}

    def verdict(row: Mapping[str, Any], tables: Tables, responses: int) -> dict[str, Any] | None:
        found = values_of(values, row, tables, "pairwise")
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
