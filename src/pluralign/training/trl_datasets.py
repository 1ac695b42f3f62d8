"""Data sets for trainers of TRL, from everything that judgments are read from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import datasets

from pluralign.judgments.inputs import Files, inputs_of, rows_of
from pluralign.judgments.reading import read
from pluralign.judgments.table import Judgments


def trl_dataset(data: Files | None, of_judgments: Callable[[Judgments], datasets.Dataset]) -> Any:
    """A data set for a trainer of TRL: judgments by `of_judgments`, rows of TRL's own form as they are.

    Raises:
        PluralignError: the data is of another kind, or holds bad judgments.

    Examples:
        >>> trl_dataset([{"prompt": "Tea?"}], lambda judgments: judgments)[0]
        {'prompt': 'Tea?'}
    """
    if data is None or isinstance(data, datasets.IterableDataset | Mapping):
        return data
    if isinstance(data, datasets.Dataset) and "responses" not in data.column_names:
        return data
    if isinstance(data, Judgments):
        return of_judgments(data)
    sources = inputs_of(data)
    if "responses" in next(rows_of(sources[0])):
        return of_judgments(read(sources))
    return datasets.Dataset.from_list([row for source in sources for row in rows_of(source)], on_mixed_types="use_json")
