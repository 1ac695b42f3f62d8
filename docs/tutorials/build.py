"""Run the tutorials as notebooks and write their pages: `python docs/tutorials/build.py [NAME ...]`.

A tutorial is a Python script in the percent format, of which jupytext makes a notebook. The page, `NAME.md`, shows what
a cell prints on standard output and its last expression: a frame as a table, a figure as a picture, anything else as
text. Cells run in a new folder. The executed notebooks are written to `build/notebooks`. A warning or a progress bar in
one of them is an error: nobody wants to see it in a notebook.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NOTEBOOKS = FOLDER.parents[1] / "build" / "notebooks"
LARGEST = 60_000
"""The largest picture, in bytes."""

SLOWEST = 1800
"""Seconds until a cell is given up."""

UNWANTED = re.compile(r"Warning\b|\d+%\||it/s|s/it|\r|Traceback")
"""What must not stand in the error stream of a notebook."""

SET_UP = f"""
import sys
import matplotlib.pyplot
sys.path.append({str(FOLDER)!r})
import build
# The same picture has the same bytes, and text stays text.
matplotlib.rcParams.update({{"svg.hashsalt": "pluralign", "svg.fonttype": "none", "font.family": "sans-serif"}})
formatters = get_ipython().display_formatter.formatters
formatters["text/markdown"].for_type_by_name("pandas", "DataFrame", build.table)
matplotlib.pyplot.close(matplotlib.pyplot.figure())  # pyplot sets its own forms when it is first used, and once more

def set_forms(*_):
    formatters["image/svg+xml"].for_type(matplotlib.figure.Figure, build.drawn)

get_ipython().events.register("pre_run_cell", set_forms)
"""
"""What the kernel runs before a tutorial, so that frames and figures come in the page's forms too."""


def table(frame: Any) -> str:
    """A frame as a Markdown table; numbers have three decimals, and an unnamed index is left out."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")

    if frame.index.name:
        frame = frame.reset_index()
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(cell(value) for value in row) + " |" for row in rows)


def drawn(figure: Any) -> str:
    """A figure as SVG."""
    import io

    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def executed(name: str) -> Any:
    """The notebook of a tutorial with its outputs.

    Raises:
        SystemExit: a cell shows what nobody wants to see.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    book = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    book.cells.insert(0, nbformat.v4.new_code_cell(SET_UP))
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(book, timeout=SLOWEST, kernel_name="python3", resources=place).execute()
    del book.cells[0]
    for number, cell in enumerate(book.cells, 1):
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr" and (found := UNWANTED.search(output.text)):
                line = output.text[: found.end()].splitlines()[-1]
                raise SystemExit(f"{name}.py, cell {number}: shows {line!r}")
    return book


def page(name: str, book: Any) -> str:
    """The page of an executed notebook; its pictures are written beside it."""
    lines: list[str] = []
    pictures = 0
    for place, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            lines += [cell.source, ""]
            if place == 0:
                lines += [
                    f"*This page was made by `make docs` from [`{name}.py`]({name}.py). "
                    "[How to run it as a notebook](index.md).*",
                    "",
                ]
            continue
        lines += ["```python", cell.source, "```", ""]
        printed = "".join(one.text for one in cell.outputs if one.get("name") == "stdout").strip()
        if printed:
            lines += ["```text", printed, "```", ""]
        for value in (one.data for one in cell.outputs if "data" in one):
            if "image/svg+xml" in value:
                pictures += 1
                lines += [written(value["image/svg+xml"], name, pictures), ""]
            elif "text/markdown" in value:
                lines += [value["text/markdown"], ""]
            else:
                lines += ["```text", value["text/plain"], "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def written(drawing: str, name: str, number: int) -> str:
    """Write a picture; the Markdown that shows it."""
    picture = FOLDER / f"{name}-{number}.svg"
    picture.write_text(drawing, encoding="utf-8")
    if picture.stat().st_size > LARGEST:
        raise SystemExit(f"{picture}: has {picture.stat().st_size} bytes, more than {LARGEST}")
    return f"![Picture {number}]({picture.name})"


def main(wanted: list[str]) -> None:
    """Write the notebooks and pages of the tutorials that are named, or of all."""
    import nbformat

    NOTEBOOKS.mkdir(parents=True, exist_ok=True)
    for name in wanted or sorted(path.stem for path in FOLDER.glob("*.py") if path != Path(__file__)):
        began = time.perf_counter()
        book = executed(name)
        nbformat.write(book, NOTEBOOKS / f"{name}.ipynb")
        (FOLDER / f"{name}.md").write_text(page(name, book), encoding="utf-8")
        print(f"{NOTEBOOKS / name}.ipynb and {FOLDER / name}.md: {time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[1:])
