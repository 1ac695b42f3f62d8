"""Run the tutorials and write each one's page with its outputs: `python docs/tutorials/build.py [NAME ...]`.

A tutorial is a Python script whose cells begin with `# %%`, or `# %% [markdown]` for text in comments. The page,
`NAME.md`, shows what a code cell prints and its last expression: a frame as a table, a figure as a picture, anything
else as text. Cells run in a new folder that all cells of the tutorial share.
"""

import ast
import contextlib
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
LARGEST = 60_000
"""The largest picture, in bytes."""


class Cell(NamedTuple):
    """A cell of a tutorial."""

    markdown: bool
    source: str


def cells_of(text: str) -> list[Cell]:
    """The cells of a script in the percent format."""
    cells = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, source = part.partition("\n")
        markdown = head.strip() == "[markdown]"
        if markdown:
            source = "\n".join(line.removeprefix("#").removeprefix(" ") for line in source.splitlines())
        cells.append(Cell(markdown, source.strip()))
    return cells


def run(source: str, names: dict[str, Any], title: str) -> tuple[str, Any]:
    """Execute a cell in a namespace: what it printed, and the value of its last expression."""
    body = ast.parse(source, title).body
    last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), title, "exec"), names)
        value = None if last is None else eval(compile(last, title, "eval"), names)
    return printed.getvalue().strip(), value


def shown(value: Any, name: str, number: int) -> list[str]:
    """The value of a cell as Markdown; a figure is written beside the page."""
    import matplotlib.figure
    import pandas as pd

    if value is None:
        return []
    if isinstance(value, matplotlib.figure.Figure):
        picture = FOLDER / f"{name}-{number}.svg"
        value.savefig(picture, metadata={"Date": None})
        lines = [line.rstrip() for line in picture.read_text(encoding="utf-8").splitlines()]
        picture.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if picture.stat().st_size > LARGEST:
            raise SystemExit(f"{picture}: has {picture.stat().st_size} bytes, more than {LARGEST}")
        return [f"![Picture {number}]({picture.name})", ""]
    if isinstance(value, pd.DataFrame):
        return [*table(value), ""]
    return ["```text", str(value), "```", ""]


def table(frame: Any) -> list[str]:
    """A frame as a Markdown table; numbers have three decimals, and an unnamed index is left out."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")

    if frame.index.name:
        frame = frame.reset_index()
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.itertuples(index=False)]
    return ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]


def page(name: str) -> str:
    """Run a tutorial; its page."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    lines: list[str] = []
    pictures = 0
    for place, cell in enumerate(cells_of(source)):
        if cell.markdown:
            lines += [cell.source, ""]
            if place == 0:
                lines += [
                    f"*This page was made by `make docs` from [`{name}.py`]({name}.py). "
                    "[How to run it as a notebook](index.md).*",
                    "",
                ]
            continue
        printed, value = run(cell.source, names, f"{name}.py, cell {place + 1}")
        lines += ["```python", cell.source, "```", ""]
        if printed:
            lines += ["```text", printed, "```", ""]
        output = shown(value, name, pictures + 1)
        pictures += bool(output) and output[0].startswith("![")
        lines += output
    return "\n".join(lines).rstrip() + "\n"


def main(wanted: list[str]) -> None:
    """Write the pages of the tutorials that are named, or of all."""
    import datasets
    import matplotlib
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # The same picture has the same bytes, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "pluralign", "svg.fonttype": "none", "font.family": "sans-serif"})
    for name in wanted or sorted(path.stem for path in FOLDER.glob("*.py") if path != Path(__file__)):
        began = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            text = page(name)
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
        clock, processor = time.perf_counter() - began[0], time.process_time() - began[1]
        print(f"{FOLDER / name}.md: {clock:.0f} s, {processor:.0f} s of processor time", file=sys.stderr)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[1:])
