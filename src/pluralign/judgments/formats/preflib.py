"""PrefLib files: orders (`.soc`, `.soi`, `.toc`, `.toi`), categories (`.cat`) and weighted graphs (`.wmd`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.files import disk_errors
from pluralign.core.progress import track
from pluralign.judgments.formats.convert import Rows, Tally
from pluralign.judgments.rows import GZIP_DAMAGE, opened
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.validation import Reject

ENDINGS = ("soc", "soi", "toc", "toi", "cat", "wmd")
SHAPES = ("ranked", "ballot")
NUMBERS = ("NUMBER ALTERNATIVES", "NUMBER VOTERS", "NUMBER UNIQUE ORDERS")

_KEY = re.compile(r"#\s*([^:]*?)\s*:(.*)")
_PLACE = re.compile(r"\s*(?:([0-9]{1,9})|\{\s*((?:[0-9]{1,9}(?:\s*,\s*[0-9]{1,9})*)?)\s*\})\s*")
_EDGE = re.compile(r"([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*,\s*(-?[0-9]+(?:\.[0-9]*)?)")

Order = tuple[tuple[int, ...], ...]
"""Alternatives by number, best first; those in one tuple tie."""


@dataclass(frozen=True)
class Header:
    """The header of a file."""

    title: str  # the title, or an empty string
    kind: str  # `soc`, `soi`, `toc` or `toi`
    names: dict[int, str]  # the alternatives by number
    numbers: dict[str, tuple[int, int]]  # the counts that the header claims, each with its line


def read_preflib(
    path: Path,
    reject: Reject | None = None,
    tally: Tally | None = None,
    shape: str = "ranked",
    prompt: str | None = None,
) -> Rows:
    """Format `preflib`: a judgment for every voter; the file counts the voters of each order.

    Args:
        path: a file of orders (`.gz` may follow).
        reject: called with each bad line of orders, and a count that differs from the claimed one; `None` raises.
        tally: counts lines of orders, and voters whose order compares nothing.
        shape: `ranked` takes only the alternatives that the voter ranked, since incomplete orders do not say what
            voters think of the others; `ballot` assumes that all voters saw all and prefer those they ranked.
        prompt: what the voters were asked. Default: the title of the file, or its name.

    Raises:
        PluralignError: the shape or the ending is unknown, the header is malformed, or a line is and `reject` is
            `None`.
    """
    if shape not in SHAPES:
        raise PluralignError(f"--shape: found '{shape}', expected ranked or ballot{nearest(shape, SHAPES)}")
    return _judgments(path, reject, Tally() if tally is None else tally, shape == "ballot", prompt)


def _judgments(path: Path, reject: Reject | None, tally: Tally, whole: bool, prompt: str | None) -> Rows:
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    lines = _lines(path)
    header, first = _header(path, name, lines)
    if prompt is None:
        prompt = header.title or name.rpartition(".")[0]
    if header.kind == "wmd":
        yield from _edges(path, name, header, chain([first], lines), reject, tally, prompt)
        return
    voters, orders, complete = 0, set(), True
    for number, line in track(chain([first], lines), f"Importing {path.name}"):
        tally.rows += 1
        try:
            count, text = _counted(line, voters, header)
            before, voters = voters, voters + count
            order = order_of(text)
            orders.add(order)
            _check(order, header)
        except RowError as complaint:
            complete = False
            _refuse(path, number, line, complaint, reject)
            continue
        placed = {alternative: place for place, tied in enumerate(order) for alternative in tied}
        shown = sorted(header.names if whole else placed)
        if len(shown) < 2:
            tally.left_out["voters who ranked a single alternative (--shape ballot ranks it above the rest)"] += count
            continue
        responses = [header.names[each] for each in shown]
        ranks = ranks_from_scores([-placed[each] if each in placed else None for each in shown])
        for voter in range(before + 1, voters + 1):
            who = f"{name}/{voter}"
            shared = {"prompt": prompt, "responses": responses, "ranks": ranks, "source": name}
            yield number, {"id": who, "annotator": who, **shared}
    counted = {"NUMBER VOTERS": voters, "NUMBER UNIQUE ORDERS": len(orders)}
    for key, value in counted.items() if complete else ():
        claimed, number = header.numbers.get(key, (value, 0))
        if claimed != value:
            mismatch = RowError(None, f"{key} is {claimed}, but the orders give {value}: correct one of them")
            _refuse(path, number, f"# {key}: {claimed}", mismatch, reject)


def _edges(
    path: Path,
    name: str,
    header: Header,
    lines: Iterable[tuple[int, str]],
    reject: Reject | None,
    tally: Tally,
    prompt: str,
) -> Rows:
    """The edges `from, to, weight` of a graph: each vertex ranks those that its edges lead to by their weights."""
    weights: dict[int, dict[int, float]] = {}
    first_line: dict[int, int] = {}
    for number, line in track(lines, f"Importing {path.name}"):
        tally.rows += 1
        found = _EDGE.fullmatch(line)
        try:
            if found is None:
                raise RowError(None, f"found {one_line(line)}, expected an edge like '1, 2, 0.5'")
            start, end = int(found[1]), int(found[2])
            for each in (start, end):
                if each not in header.names:
                    raise RowError(None, f"alternative {each} is not among the {len(header.names)} of the header")
            if end in weights.get(start, {}):
                raise RowError(None, f"the edge from {start} to {end} appears twice: keep one of them")
        except RowError as complaint:
            _refuse(path, number, line, complaint, reject)
            continue
        weights.setdefault(start, {})[end] = float(found[3])
        first_line.setdefault(start, number)
    for start, ends in weights.items():
        if len(ends) < 2:
            tally.left_out["vertices with a single edge, which ranks nothing"] += 1
            continue
        who = f"{name}/{start}"
        responses, ranks = [header.names[end] for end in ends], ranks_from_scores(list(ends.values()))
        shared = {"prompt": prompt, "responses": responses, "ranks": ranks, "source": name}
        yield first_line[start], {"id": who, "annotator": who, **shared}


def _counted(line: str, before: int, header: Header) -> tuple[int, str]:
    """The number of voters that a line stands for, and their order."""
    found = re.fullmatch(r"([0-9]{1,15})\s*:(.*)", line)
    if found is None or int(found[1]) == 0:
        raise RowError(None, f"found {one_line(line)}, expected a count and an order like '12: 1,{{2,3}},4'")
    claimed, place = header.numbers["NUMBER VOTERS"]
    if before + int(found[1]) > claimed:
        total = before + int(found[1])
        raise RowError(None, f"the counts so far sum to {total}, but line {place} says NUMBER VOTERS: {claimed}")
    return int(found[1]), found[2]


def order_of(text: str) -> Order:
    """Parse an order in PrefLib's notation: commas from better to worse, braces around alternatives that tie.

    Examples:
        >>> order_of("1, {4, 3}, 2")
        ((1,), (3, 4), (2,))
    """
    places: list[tuple[int, ...]] = []
    end = -1
    while end < len(text):
        found = _PLACE.match(text, end + 1)
        if found is None or (found.end() < len(text) and text[found.end()] != ","):
            raise RowError(None, f"found {one_line(text.strip())}, expected numbers like '1,{{2,3}},4'")
        places.append(tuple(sorted(int(each) for each in (found[1] or found[2]).split(",") if each)))
        end = found.end()
    flat = [alternative for tied in places for alternative in tied]
    if len(set(flat)) < len(flat):
        repeated = next(each for each in flat if flat.count(each) > 1)
        raise RowError(None, f"alternative {repeated} appears twice in the order: keep it once")
    return tuple(places)


def _check(order: Order, header: Header) -> None:
    ranked = [alternative for tied in order for alternative in tied]
    if header.kind != "cat" and () in order:
        raise RowError(None, "the order has an empty place '{}', which only categories (.cat) have")
    unknown = next((each for each in ranked if each not in header.names), None)
    if unknown is not None:
        raise RowError(None, f"alternative {unknown} is not among the {len(header.names)} of the header")
    if header.kind[0] == "s" and len(ranked) > len(order):
        raise RowError(None, f"the order has ties, and a {header.kind} file has none: use .to{header.kind[2]}")
    if header.kind[2] == "c" and len(ranked) < len(header.names):
        raise RowError(
            None,
            f"the order ranks {len(ranked)} of {len(header.names)} alternatives, and in a {header.kind} file every "
            f"order ranks all: use .{header.kind[:2]}i",
        )


def _refuse(path: Path, number: int, line: str, complaint: RowError, reject: Reject | None) -> None:
    if reject is None:
        raise PluralignError(f"{path}, line {number}: {complaint.message}") from complaint
    reject(number, line, complaint)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    number = 0
    with disk_errors(path):
        try:
            with opened(path) as data:
                for number, line in enumerate(data, start=1):
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                    if text:
                        yield number, text
        except UnicodeDecodeError as fault:
            place = f"{path}, line {number}"
            raise PluralignError(f"{place}: byte {fault.start + 1} is not UTF-8: save it as UTF-8") from fault
        except GZIP_DAMAGE as fault:
            raise PluralignError(f"{path}: the gzip file is damaged or cut off: fetch it again") from fault


def _header(path: Path, name: str, lines: Iterator[tuple[int, str]]) -> tuple[Header, tuple[int, str]]:
    """The header, and the first line of orders."""
    ending = name.lower().rpartition(".")[2]
    if ending not in ENDINGS:
        known = ", ".join(f".{each}" for each in ENDINGS)
        raise PluralignError(f"{path}: the name must end in {known} (.gz may follow)")
    texts: dict[str, tuple[str, int]] = {}
    for number, line in lines:
        if not line.startswith("#"):
            break
        found = _KEY.fullmatch(line)
        if found is None:
            raise PluralignError(f"{path}, line {number}: found {one_line(line)}, expected '# KEY: value'")
        if found[1] in texts:
            raise PluralignError(f"{path}, line {number}: {found[1]} is already on line {texts[found[1]][1]}")
        texts[found[1]] = (found[2].strip(), number)
    else:
        raise PluralignError(f"{path}: no order follows the header" if texts else f"{path}: the file is empty")
    if not texts:
        hint = "files in PrefLib's format from before 2022 have no header: download the file again, or add the header"
        raise PluralignError(f"{path}, line {number}: found {one_line(line)}, expected '# KEY: value' ({hint})")
    numbers = {}
    for key in NUMBERS:
        if key not in texts and key != "NUMBER UNIQUE ORDERS" and (key, ending) != ("NUMBER VOTERS", "wmd"):
            raise PluralignError(f"{path}: the header has no line '# {key}: N'{nearest(key, texts)}")
        text, place = texts.get(key, ("", 0))
        if place and re.fullmatch("[0-9]{1,15}", text) is None:
            raise PluralignError(f"{path}, line {place}: {key} is {one_line(text)}, expected a whole number")
        if place:
            numbers[key] = (int(text), place)
    kind, place = texts.get("DATA TYPE", ("", 0))
    if kind and kind.lower() != ending:
        raise PluralignError(
            f"{path}, line {place}: DATA TYPE is {one_line(kind)}, but the file's name ends in .{ending}"
        )
    names = _names(path, texts, *numbers["NUMBER ALTERNATIVES"])
    return Header(texts.get("TITLE", ("", 0))[0], ending, names, numbers), (number, line)


def _names(path: Path, texts: dict[str, tuple[str, int]], claimed: int, claimed_on: int) -> dict[int, str]:
    names: dict[int, str] = {}
    lines_of: dict[str, int] = {}
    for key, (name, number) in texts.items():
        found = re.fullmatch(r"ALTERNATIVE NAME\s+([0-9]{1,9})", key)
        if found is None:
            continue
        if not name:
            raise PluralignError(f"{path}, line {number}: alternative {found[1]} has no name: give it one")
        if name in lines_of:
            raise PluralignError(
                f"{path}, line {number}: {one_line(name)} already names the alternative of line {lines_of[name]}: "
                "alternatives must differ by name"
            )
        lines_of[name] = number
        names[int(found[1])] = name
    if len(names) != claimed:
        raise PluralignError(
            f"{path}, line {claimed_on}: NUMBER ALTERNATIVES is {claimed}, but {len(names)} are named: correct one "
            "of them"
        )
    return names
