"""The results of one GPU as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TOKENS = ("judged", "read")


def table(found: Mapping[str, Any]) -> str:
    """All parts: exactness, the killed run, speed, kernels, and what went wrong."""
    device = found["device"]
    versions = ", ".join(f"{name} {version}" for name, version in device.items() if name != "name")
    lines = [f"# {device.get('name', 'no device')}, {found['date']}", "", f"`{found['command']}`; {versions}", ""]
    parts = found["parts"]
    for name, write in (("exactness", _exactness), ("resume", _resume), ("speed", _speed), ("kernels", _kernels)):
        if results := parts.get(name, {}).get("results"):
            lines += [*write({key: it for key, it in results.items() if "error" not in it}), ""]
    faults = _faults(parts)
    return "\n".join(lines + (["## What went wrong", "", *faults, ""] if faults else []))


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _exactness(results: Mapping[str, Any]) -> list[str]:
    head = ["weights", "read as", "largest difference to flat rows, nats a token", "relative", "gradient, relative"]
    rows = [
        [name, read, f"{own['nats_per_token']:.1e}", f"{own['relative']:.1e}", _number(own.get("gradient"), ".1e")]
        for name, read_as in results.items()
        if name != "chosen"
        for read, own in read_as.items()
        if "error" not in own
    ]
    chosen = "; ".join(f"{dtype}: {layout}" for dtype, layout in results.get("chosen", {}).items())
    return ["## Exactness", "", *_rows(head, rows), "", f"Chosen by itself: {chosen or 'unknown'}."]


def _resume(results: Mapping[str, Any]) -> list[str]:
    head = ["killed and started again", "largest difference of a weight"]
    return [
        "## Resuming",
        "",
        *_rows(head, [[name, f"{own['largest_difference']:.1e}"] for name, own in results.items()]),
    ]


def _speed(results: Mapping[str, Any]) -> list[str]:
    head = [
        "shape",
        "objective",
        "task",
        "method",
        "s a step",
        "judged tokens/s",
        "read tokens/s",
        "of the peak",
        "GiB",
    ]
    rows = []
    for name, own in results.items():
        cells = name.split("; ")
        if "left_out" in own:
            rows.append([*cells, own["left_out"], *[""] * 4])
            continue
        share = own["share_of_peak"]
        rows.append(
            [*cells, f"{own['seconds']:.3g}", *(f"{own[f'{kind}_tokens_a_second']:,.0f}" for kind in _TOKENS),
             "unknown" if share is None else f"{share:.1%}", _number(own["peak_gib"], ".1f")]
        )  # fmt: skip
    notes = (
        "Judged tokens are those of all adjacent pairs, so they are the same for every method; read tokens are those "
        "of the method's rows. Share of the chip's peak in 16 bits: six operations a weight and read token (four where "
        "the weights are frozen), the head's for predicted tokens alone, attention left out."
    )
    return ["## Speed", "", *_rows(head, rows), "", notes]


def _kernels(results: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, f"`{own['kernel'].replace('|', '/')}`", f"{own['share']:.0%}", str(own["calls"])]
        for name, step in results.items()
        for own in step["slowest"]
    ]
    return ["## The five slowest kernels of a step", "", *_rows(["step", "kernel", "share", "calls"], rows)]


def _faults(parts: Mapping[str, Any]) -> list[str]:
    faults = [f"- {name}: {part['error']}" for name, part in parts.items() if "error" in part]
    for name, part in parts.items():
        for key, own in part.get("results", {}).items():
            inner = [(key, own), *((f"{key}, {read}", it) for read, it in own.items() if isinstance(it, dict))]
            faults += [f"- {name}; {place}: {it['error']}" for place, it in inner if "error" in it]
    return faults


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
