"""`votes update`: merge new votes into a stored vote state, and report which items moved most."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.choice.dirichlet import posterior_mean, total_variation
from pluralign.choice.post_stratification import crowd_counts
from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.files import output_file
from pluralign.core.locks import file_lock
from pluralign.core.numbers import finite_float
from pluralign.core.yaml_lines import read_yaml_lines
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns
from pluralign.judgments.rows import read_rows
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.votes import Merged, VoteState, merge, read_votes, write_votes
from pluralign.judgments.votes.merging import empty_state
from pluralign.judgments.votes.priors import read_priors
from pluralign.judgments.votes.state import Kind, PairVotes, time_of


@dataclass(frozen=True)
class Moved:
    """How far the posterior mean of an item moved.

    Args:
        prompt: the prompt of the item.
        response: the response; for pairs, A.
        other: B of a pair, or `None`.
        before: posterior mean by label before the update (the prior, for a new item).
        after: posterior mean by label after the update.
        votes: n after the update.
        total_variation: half the sum of absolute differences of the two means.
    """

    prompt: Any
    response: Any
    other: Any
    before: dict[str, float]
    after: dict[str, float]
    votes: float
    total_variation: float

    def summary(self) -> str:
        """The item as a line, with the three labels whose shares changed most."""
        changed = sorted(self.before, key=lambda label: -round(abs(self.after[label] - self.before[label]), 9))[:3]
        shares = ", ".join(f"{label} {self.before[label]:.2f} -> {self.after[label]:.2f}" for label in changed)
        texts = [one_line(text, 40) for text in (self.prompt, self.response, self.other) if text is not None]
        return f"{self.total_variation:.3f}  {self.votes:.4g} votes  {shares}  {' | '.join(texts)}"


@dataclass(frozen=True)
class Updated:
    """The result of an update.

    Args:
        path: the file of the state.
        created: whether the update created it.
        strength: kappa, the weight of its prior in votes.
        merged: counts of judgments and new items.
        items: items with a vote.
        dropped: for each stratum with a share, the items without a vote of it; the other shares are rescaled there.
        moved: the items that moved most, in descending order.
    """

    path: Path
    created: bool
    strength: float
    merged: Merged
    items: int
    dropped: dict[str, int]
    moved: list[Moved]

    def summary(self) -> list[str]:
        """A summary for the terminal, as lines."""
        merged = self.merged
        lines = [f"new judgments: {merged.new}", f"already known: {merged.known}"]
        if merged.left_out:
            lines.append(f"without a vote: {merged.left_out}")
        lines.append(f"new items: {merged.new_items} of {self.items}")
        if self.created:
            lines.append(f"prior: counts as {self.strength:.3g} votes an item")
        lines += [
            f"no vote of stratum {one_line(name)}: {count} of {self.items} items (its share went to the others)"
            for name, count in self.dropped.items()
        ]
        if self.moved:
            lines.append("moved most (total variation, votes, mean before -> after):")
            lines += [f"  {moved.summary()}" for moved in self.moved]
        if not merged.new:
            return [*lines, f"nothing new; {self.path} is unchanged"]
        return [*lines, f"{'created' if self.created else 'updated'} {self.path}"]


def update_votes(
    state: str | os.PathLike[str],
    files: Files,
    *,
    prior: str | os.PathLike[str] | None = None,
    strength: float | None = None,
    decay: float | None = None,
    window_days: float | None = None,
    origin: str | None = None,
    shares: str | os.PathLike[str] | Mapping[str, float] | None = None,
    strata: str | None = None,
    annotators: str | os.PathLike[str] | None = None,
    label_scale: str | os.PathLike[str] | LabelScale | None = None,
    columns: Columns | None = None,
    kind: Kind | None = None,
    pair_votes: PairVotes | None = None,
    most: int = 10,
) -> Updated:
    """Merge the votes of canonical files into a stored state, which is created if it does not exist.

    Judgments whose ids the state has merged before change nothing, so a file may be merged again. The settings of a
    state are fixed when it is created; later they may be left out or repeated.

    Args:
        state: the file of the state, `.parquet`.
        files: what `read` takes: files, data sets, frames or rows.
        prior: a table of priors with `prompt`, `response` and one column per label.
        strength: kappa, the weight of the prior in votes. Default: the number that makes the first votes most likely
            (`pluralign.choice.dirichlet.estimated_strength`), or one per label if they are too few.
        decay: the factor by which a vote fades at each window boundary. Default: 1, votes do not fade.
        window_days: the length of a window, with a decay below 1.
        origin: the start of window 0, a time like 2024-05-31T12:00:00Z. Default: 1970.
        shares: the population share of each stratum: a YAML file `{stratum: share}`, or a dict.
        strata: with shares: `group`, or a column of `annotators`. Default: `group`.
        annotators: a table with the column `annotator` and that column.
        label_scale: the scale of files with labels that carry none. Default: the state's.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.
        kind: `labels` or `pairs`. Default: labels if the files have any.
        pair_votes: for pairs: the weight of a ranking is `shared` among its pairs (default), or counts in `full` on
            each.
        most: the number of items to report that moved most.

    Raises:
        PluralignError: bad input, settings that differ from the state's, or judgments that do not fit it; the stored
            state is not changed.

    Examples:
        >>> import tempfile
        >>> from pluralign.judgments import Judgments
        >>> folder = Path(tempfile.mkdtemp())
        >>> row = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
        >>> Judgments.from_rows([row] * 2).write(folder / "votes.parquet")
        >>> done = update_votes(folder / "state.parquet", folder / "votes.parquet")
        >>> done.merged.new, done.moved[0].after
        (2, {'A': 0.25, 'B': 0.75})
        >>> update_votes(folder / "state.parquet", folder / "votes.parquet").merged.known
        2
    """
    path = Path(state)
    given = Inputs(files, columns)
    output_file(path, [*given.names, prior, shares, annotators, label_scale])
    if most < 0:
        raise PluralignError(f"most: found {most}, expected 0 or more")
    if annotators is not None and strata in (None, "group"):
        raise PluralignError("annotators: name the column that holds the strata with --strata")
    # Held from reading the state to writing it, so that votes of another update cannot be lost in between.
    with file_lock(path):
        before = read_votes(path) if path.exists() else None
        if label_scale is None and before is not None and before.kind == "labels" and given.label_scale() is None:
            label_scale = before.scale
        judgments = given.read(label_scale)
        settings: dict[str, Any] = {
            "strength": strength,
            "decay": decay,
            "window_days": window_days,
            "origin": None if origin is None else time_of(origin).isoformat(),
            "shares": _read_shares(Path(shares)) if isinstance(shares, str | os.PathLike) else shares,
            "strata": strata,
            "pair_votes": pair_votes,
        }
        created = before is None
        if before is None:
            before = empty_state(judgments, kind, prior, settings)
        else:
            _check_settings(path, before, {"kind": kind, **settings}, prior)
        stratum_of = None
        if before.settings.strata not in (None, "group") and annotators is not None:
            stratum_of = _read_strata(Path(annotators), str(before.settings.strata))
        after, merged = merge(before, judgments, stratum_of)
        if created and strength is None:
            after = after.with_strength()
            before = before.with_strength(after.settings.strength)
        if created and not merged.new:
            raise PluralignError(
                f"{one_line(given.names)}: no judgment votes on {before.kind}: "
                "check the files, or use --kind pairs or labels"
            )
        if merged.new:
            write_votes(after, path)
        items, kappa = int(after.voted.sum()), after.settings.strength
        return Updated(path, created, kappa, merged, items, _dropped(after), _moved(before, after, most))


def _read_shares(path: Path) -> dict[str, float]:
    """Shares of the strata from a YAML file of `stratum: share`."""
    root = read_yaml_lines(path)
    if not isinstance(root.content, dict):
        raise root.complain("expected strata and their shares, like 'young: 0.3'")
    shares = {}
    for value in root.content.values():
        found = value.plain()
        share = None if isinstance(found, str) else finite_float(found)
        if share is None or share < 0:
            raise value.complain(f"found {one_line(found)}, expected a share, 0 or more")
        shares[value.key] = share
    return shares


def _read_strata(path: Path, column: str) -> dict[str, str]:
    """The stratum of each annotator from a side table; rows without one are skipped."""
    strata: dict[str, str] = {}
    for number, row in read_rows(path):
        for name in ("annotator", column):
            if name not in row:
                complaint = RowError(None, f"has no column '{name}'{nearest(name, map(str, row))}")
                raise complaint.at(path, number)
        if row[column] in (None, ""):
            continue
        annotator, stratum = str(row["annotator"]), str(row[column])
        if strata.setdefault(annotator, stratum) != stratum:
            conflict = f"{one_line(annotator)} has {one_line(strata[annotator])} in an earlier row"
            raise RowError(column, conflict).at(path, number)
    return strata


def _check_settings(path: Path, state: VoteState, given: Mapping[str, Any], prior: Any) -> None:
    """Check that the given settings are those of the state."""
    fixed = {"kind": state.kind, **state.settings.as_dict()}
    differing = [
        f"{name} ({fixed[name]!r} before, {value!r} now)"
        for name, value in given.items()
        if value is not None and value != fixed[name]
    ]
    if prior is not None:
        priors = read_priors(prior, state.kind, state.form, state.scale)
        if priors.fingerprint != state.settings.prior:
            differing.append(f"prior ({'another' if state.settings.prior else 'none'} before, {prior} now)")
    if differing:
        raise PluralignError(
            f"{path}: was created with other settings: {', '.join(differing)}; leave them out, or start another state"
        )


def _dropped(state: VoteState) -> dict[str, int]:
    shares = state.settings.shares
    if shares is None:
        return {}
    empty = crowd_counts(state.held, list(shares.values())).dropped[state.voted].sum(0)
    return {name: int(count) for name, count in zip(shares, empty, strict=True) if count}


def _moved(before: VoteState, after: VoteState, most: int) -> list[Moved]:
    """Items by how far their means moved; items keep their numbers, and new ones start from their priors."""
    old = posterior_mean(after.start)
    old[: len(before)] = before.mean
    new = after.mean
    distance = total_variation(old, new)
    labels = after.scale.labels
    return [
        Moved(
            prompt=after.prompt[item],
            response=after.response[item],
            other=after.other[item] if after.other else None,
            before=dict(zip(labels, old[item].tolist(), strict=True)),
            after=dict(zip(labels, new[item].tolist(), strict=True)),
            votes=float(after.votes[item]),
            total_variation=float(distance[item]),
        )
        for item in np.argsort(-distance, kind="stable")[:most]
        if distance[item] > 0
    ]
