"""Judgments weighted by the reliability of their annotators, from a file such as an audit writes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import read_parquet
from pluralign.core.numbers import finite_float
from pluralign.judgments.table import Judgments
from pluralign.judgments.validation import MOST_WEIGHT


def read_annotator_weights(file: str | os.PathLike[str]) -> dict[str, float]:
    """The weight of each annotator from a Parquet file with the columns `annotator` and `weight`.

    Raises:
        PluralignError: the file is missing or no Parquet file, lacks a column, or names an annotator twice; or a weight
            is missing, negative or not finite.
    """
    place = Path(file)
    table = read_parquet(place, ["annotator", "weight"])
    weights: dict[str, float] = {}
    names = zip(table.column("annotator").to_pylist(), table.column("weight").to_pylist(), strict=True)
    for row, (name, weight) in enumerate(names, 1):
        if name is None:
            continue
        number = None if isinstance(weight, str) else finite_float(weight)
        if number is None or not 0 <= number <= MOST_WEIGHT:
            expected = f"expected a number from 0 to {MOST_WEIGHT:g}"
            raise PluralignError(f"{place}, row {row}, column weight: found {one_line(weight)}, {expected}")
        if str(name) in weights:
            raise PluralignError(f"{place}, row {row}: names the annotator {one_line(name)} a second time")
        weights[str(name)] = number
    return weights


def with_annotator_weights(judgments: Judgments, weights: Mapping[str, float]) -> Judgments:
    """The judgments with each weight multiplied by its annotator's; annotators without one count as before.

    Raises:
        PluralignError: no weight above 0 is left.

    Examples:
        >>> row = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
        >>> judgments = Judgments.from_rows([{**row, "annotator": name, "weight": 2.0} for name in ("ann", "bo", None)])
        >>> with_annotator_weights(judgments, {"ann": 0.25}).column("weight")
        [0.5, 2.0, 2.0]
    """
    factors = np.array([1.0 if name is None else weights.get(name, 1.0) for name in judgments.column("annotator")])
    product = judgments.table.column("weight").to_numpy() * factors
    if not product.any():
        raise PluralignError("annotator_weights: every judgment has the weight 0, so there is nothing to train on")
    place = judgments.table.schema.get_field_index("weight")
    field = judgments.table.schema.field(place)
    return Judgments(judgments.table.set_column(place, field, pa.array(product, field.type)))
