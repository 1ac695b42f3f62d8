"""`votes update`: merge new votes into a stored state of a crowd, and tell which items moved most."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.choice.dirichlet import posterior_mean, total_variation
from pluralign.choice.post_stratification import crowd_counts
from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.yaml_lines import read_yaml_lines
from pluralign.judgments.ballots import kind_of_votes
from pluralign.judgments.reading import common_scale, read
from pluralign.judgments.rows import read_rows
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.table import Judgments
from pluralign.judgments.vote_priors import read_priors
from pluralign.judgments.vote_state import EPOCH, Kind, PairVotes, time_of
from pluralign.judgments.votes import (
    Merged,
    VoteSettings,
    VoteState,
    merge,
    new_state,
    read_votes,
    scale_of_votes,
    write_votes,
)

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Moved:
    """How far an item's posterior mean moved.

    Args:
        prompt: of the item.
        response: of the item; of pairs A.
        other: B of pairs, or `None`.
        before: posterior mean by label before the update (the prior, for a new item).
        after: posterior mean by label after it.
        votes: n after it.
        total_variation: half the sum of absolute differences of the two means.
    """

    prompt: Any
    response: Any
    other: Any
    before: dict[str, float]
    after: dict[str, float]
    votes: float
    total_variation: float


@dataclass(frozen=True)
class Updated:
    """What came of an update.

    Args:
        path: the state's file.
        created: whether the update made it.
        merged: counts of judgments and new items.
        items: items with a vote.
        dropped: by stratum with a share, the items on which it has no vote: there the others' shares were rescaled.
        moved: the items that moved most, the first most of all.
    """

    path: Path
    created: bool
    merged: Merged
    items: int
    dropped: dict[str, int]
    moved: list[Moved]

    def summary(self) -> list[str]:
        """What happened, one line each."""
        merged = self.merged
        lines = [
            f"new judgments: {merged.new}",
            f"already known: {merged.known}",
            *([f"without a vote: {merged.left_out}"] if merged.left_out else []),
            f"new items: {merged.new_items} of {self.items}",
            *(
                f"no vote of stratum {one_line(name)}: {count} of {self.items} items (its share went to the others)"
                for name, count in self.dropped.items()
            ),
        ]
        if self.moved:
            lines.append("moved most (total variation, votes, mean before -> after):")
            lines += [f"  {_story(one)}" for one in self.moved]
        if not merged.new:
            return [*lines, f"nothing new; {self.path} is as it was"]
        return [*lines, f"{'made' if self.created else 'updated'} {self.path}"]


def update_votes(
    state: str | os.PathLike[str],
    files: Paths,
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
    kind: Kind | None = None,
    pair_votes: PairVotes | None = None,
    most: int = 10,
) -> Updated:
    """Merge the votes of canonical files into a stored state; the state is made when it is not there.

    Judgments whose ids the state has merged before change nothing, so the same file may come again. What is given
    for a new state is fixed from then on; later it may be left out or said again.

    Args:
        state: the state's file, `.parquet`.
        files: canonical files.
        prior: the side table of priors, keyed by `prompt` and `response`, one column per label.
        strength: kappa, the prior's weight in votes. Default: the number of labels.
        decay: what is left of a vote after each boundary of a window. Default: 1, votes do not fade.
        window_days: the length of a window, with a decay under 1.
        origin: where windows are counted from, a time like 2024-05-31T12:00:00Z. Default: 1970.
        shares: the population's share of each stratum: a YAML file `{stratum: share}`, or a dict.
        strata: with shares: `group`, or a column of `annotators`. Default: `group`.
        annotators: a side table with the columns `annotator` and that column.
        label_scale: the scale of files with labels that carry none. Default: the state's.
        kind: `labels` or `pairs`. Default: labels where the files have any.
        pair_votes: of pairs: a ranking's weight is `shared` among its pairs (default), or counts in `full` on each.
        most: how many of the items that moved most to name.

    Raises:
        PluralignError: bad input, other settings than the state's, or judgments that do not fit it; the stored
            state stays as it was.

    Examples:
        >>> import tempfile
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
    if path.suffix.lower() != ".parquet":
        raise PluralignError(f"{path}: the state's name must end in .parquet")
    paths = [Path(files)] if isinstance(files, str | os.PathLike) else [Path(file) for file in files]
    if most < 0:
        raise PluralignError(f"most: found {most}, expected 0 or more")
    if annotators is not None and strata in (None, "group"):
        raise PluralignError("annotators: name the column that holds the strata with --strata")
    before = read_votes(path) if path.exists() else None
    if label_scale is None and before is not None and before.kind == "labels" and common_scale(paths) is None:
        label_scale = before.scale
    judgments = read(paths, label_scale)
    wanted: dict[str, Any] = {
        "strength": strength,
        "decay": decay,
        "window_days": window_days,
        "origin": None if origin is None else time_of(origin).isoformat(),
        "shares": read_shares(Path(shares)) if isinstance(shares, str | os.PathLike) else shares,
        "strata": strata,
        "pair_votes": pair_votes,
    }
    created = before is None
    if before is None:
        before = _made(judgments, kind, prior, wanted)
    else:
        _check_settings(path, before, {"kind": kind, **wanted}, prior)
    stratum_of = None
    if before.settings.strata not in (None, "group") and annotators is not None:
        stratum_of = read_strata(Path(annotators), str(before.settings.strata))
    after, merged = merge(before, judgments, stratum_of)
    if created and not merged.new:
        raise PluralignError(
            f"{one_line([str(file) for file in paths])}: no judgment votes on {before.kind}: "
            "check the files, or say --kind pairs or labels"
        )
    if merged.new:
        write_votes(after, path)
    return Updated(path, created, merged, _voted(after), _dropped(after), _moved(before, after, most))


def read_shares(path: Path) -> dict[str, float]:
    """Shares of the strata from a YAML file of `stratum: share`.

    Raises:
        PluralignError: names the line.
    """
    root = read_yaml_lines(path)
    if not isinstance(root.content, dict):
        raise root.complain("expected strata and their shares, like 'young: 0.3'")
    found = {}
    for name, value in root.content.items():
        share = value.plain()
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < float("inf"):
            raise value.complain(f"found {one_line(share)}, expected a share, 0 or more")
        found[str(name)] = float(share)
    return found


def read_strata(path: Path, column: str) -> dict[str, str]:
    """The stratum of each annotator from a side table; rows without one are passed over.

    Raises:
        PluralignError: a column is missing, or an annotator stands twice with different strata.
    """
    found: dict[str, str] = {}
    for number, row in read_rows(path):
        for name in ("annotator", column):
            if name not in row:
                complaint = RowError(None, f"has no column '{name}'{nearest(name, map(str, row))}")
                raise complaint.at(path, number)
        if row[column] in (None, ""):
            continue
        who, stratum = str(row["annotator"]), str(row[column])
        if found.setdefault(who, stratum) != stratum:
            raise RowError(column, f"{one_line(who)} stands above with {one_line(found[who])}").at(path, number)
    return found


def _made(judgments: Judgments, kind: Kind | None, prior: Any, wanted: Mapping[str, Any]) -> VoteState:
    """A new state, without a vote."""
    chosen = kind_of_votes(judgments) if kind is None else kind
    scale = scale_of_votes(judgments, chosen)
    priors = None if prior is None else read_priors(prior, chosen, judgments.form, scale)
    defaults = {"strength": float(len(scale.labels)), "decay": 1.0, "origin": EPOCH, "pair_votes": "shared"}
    given = {name: value for name, value in wanted.items() if value is not None}
    settings = VoteSettings(**{**defaults, **given, "prior": priors and priors.fingerprint})
    return new_state(chosen, judgments.form, scale, settings, priors)


def _check_settings(path: Path, state: VoteState, given: Mapping[str, Any], prior: Any) -> None:
    """Complain about settings that are given and differ from the state's."""
    fixed = {"kind": state.kind, **state.settings.as_dict()}
    differing = [
        f"{name} ({fixed[name]!r} before, {value!r} now)"
        for name, value in given.items()
        if value is not None and value != fixed[name]
    ]
    if (
        prior is not None
        and read_priors(prior, state.kind, state.form, state.scale).fingerprint != state.settings.prior
    ):
        differing.append(f"prior ({'another' if state.settings.prior else 'none'} before, {prior} now)")
    if differing:
        raise PluralignError(
            f"{path}: was made with other settings: {', '.join(differing)}; leave them out, or start another state"
        )


def _voted(state: VoteState) -> int:
    return int((state.counts.sum(1) > 0).sum())


def _dropped(state: VoteState) -> dict[str, int]:
    shares = state.settings.shares
    if shares is None:
        return {}
    empty = crowd_counts(state.held, list(shares.values())).dropped[state.counts.sum(1) > 0].sum(0)
    return {name: int(count) for name, count in zip(shares, empty, strict=True) if count}


def _moved(before: VoteState, after: VoteState, most: int) -> list[Moved]:
    """Items by how far their means moved; items keep their numbers, and new ones come from their priors."""
    old = posterior_mean(after.start)
    old[: len(before)] = before.mean
    new = after.mean
    moved = total_variation(old, new)
    first = np.argsort(-moved, kind="stable")[:most]
    labels = after.scale.labels
    return [
        Moved(
            prompt=after.prompt[item],
            response=after.response[item],
            other=after.other[item] if after.other else None,
            before=dict(zip(labels, old[item].tolist(), strict=True)),
            after=dict(zip(labels, new[item].tolist(), strict=True)),
            votes=float(after.votes[item]),
            total_variation=float(moved[item]),
        )
        for item in first
        if moved[item] > 0
    ]


def _story(one: Moved) -> str:
    """One item in a line: the three labels whose shares changed most."""
    changed = sorted(one.before, key=lambda label: -round(abs(one.after[label] - one.before[label]), 9))[:3]
    shares = ", ".join(f"{label} {one.before[label]:.2f} -> {one.after[label]:.2f}" for label in changed)
    texts = [one_line(text, 40) for text in (one.prompt, one.response, one.other) if text is not None]
    return f"{one.total_variation:.3f}  {one.votes:.4g} votes  {shares}  {' | '.join(texts)}"
