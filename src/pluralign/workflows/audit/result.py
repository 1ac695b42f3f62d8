"""What an audit found, as an object: its metrics, types and tables, in memory or in its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pluralign.core.files import atomic_write, read_parquet, write_parquet
from pluralign.core.records import read_record, write_record
from pluralign.core.runs import read_metrics
from pluralign.reports.audit import audit_page
from pluralign.reports.audit_record import AnnotatorType, AuditPage

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd  # type: ignore[import-untyped]

TABLES = ("types", "annotators", "worths")
"""The tables of an audit, and the names of their Parquet files."""


@dataclass(frozen=True, repr=False, eq=False)
class Audit(Mapping[str, Any]):
    """The result of `pluralign.audit`. As a mapping it is the content of `metrics.json`.

    Args:
        metrics: flat metrics by name.
        contents: everything that the page shows.
        tables: `types` (each annotator's responsibilities), `annotators` (noise scales, flags, weights) and `worths`
            (utilities of responses).

    Examples:
        >>> import pluralign
        >>> from pluralign.judgments.population import Town, simulate
        >>> found = pluralign.audit(simulate(Town(annotators=20)).judgments, types=1, simulations=0)
        >>> found
        <Audit of 240 judgments by 20 annotators: 1 type>
        >>> found["types"], len(found.types), found.responsibilities.shape
        (1, 1, (20, 4))
    """

    metrics: dict[str, Any]
    contents: AuditPage
    tables: dict[str, pa.Table]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Audit:
        """Read a finished audit's folder.

        Raises:
            PluralignError: a file is missing or is not an audit's.
        """
        folder = Path(folder)
        metrics, contents = read_metrics(folder), read_record(folder / "audit.json", AuditPage)
        tables = {name: read_parquet(folder / f"{name}.parquet") for name in TABLES}
        return cls(metrics, contents, tables)

    def write(self, folder: Path) -> None:
        """Write the page, the record and the tables, but not the metrics, which mark a run as finished."""
        write_record(folder / "audit.json", self.contents)
        for name, table in self.tables.items():
            write_parquet(table, folder / f"{name}.parquet")
        with atomic_write(folder / "report.html", "w") as file:
            file.write(self.page())

    def __getitem__(self, key: str) -> Any:
        return self.metrics[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return self.contents.identification.sentence

    @property
    def types(self) -> list[AnnotatorType]:
        """The types, with shares, members, worths and traits."""
        return self.contents.types

    @cached_property
    def responsibilities(self) -> pd.DataFrame:
        """Each annotator's probability of every type: `annotator`, `judgments`, `type`, `probability_1`, ..."""
        return self.tables["types"].to_pandas()

    @cached_property
    def annotators(self) -> pd.DataFrame:
        """Each annotator's noise scale, agreement, flags and weight."""
        return self.tables["annotators"].to_pandas()

    @cached_property
    def worths(self) -> pd.DataFrame:
        """The utility of each response for every type, with standard errors."""
        return self.tables["worths"].to_pandas()

    def page(self) -> str:
        """The HTML page: self-contained, without scripts."""
        return audit_page(self.contents)

    def plot(self) -> matplotlib.figure.Figure:
        """Held-out log-likelihood by the number of types with 95 % intervals, and the shares of the types found."""
        from pluralign.reports.drawing import NotebookFigure

        figure = NotebookFigure((8, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        tried = [row for row in self.contents.selection if row.held_out is not None]
        left.plot([row.types for row in tried], [row.held_out for row in tried], "o-")
        spans = [row for row in tried if row.low is not None]
        left.vlines([row.types for row in spans], [row.low for row in spans], [row.high for row in spans])
        left.set(xlabel="number of types", ylabel="held-out log-likelihood (nats a judgment)")
        left.set_xticks([row.types for row in tried])
        right.barh([kind.name for kind in self.types][::-1], [kind.share for kind in self.types][::-1])
        right.set(xlim=(0, 1), xlabel="share of annotators")
        return figure

    def __repr__(self) -> str:
        data, number = self.contents.data, len(self.types)
        people = f"{data.judgments} judgments by {data.annotators} annotators"
        return f"<Audit of {people}: {number} type{'s' * (number != 1)}>"

    def _repr_html_(self) -> str:
        """The sentence and the types, for notebooks; `page` has the rest."""
        rows = "".join(
            f"<tr><td>{escape(kind.name)}</td><td>{kind.share:.0%}</td><td>{kind.annotators}</td></tr>"
            for kind in self.types
        )
        head = "<tr><th></th><th>share</th><th>annotators</th></tr>"
        return f"<p><b>{escape(self.sentence)}</b></p><table>{head}{rows}</table>"
