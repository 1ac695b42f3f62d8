"""Arguments and options that several commands share, each with one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand, TyperOption

from pluralign.core.errors import PluralignError
from pluralign.core.model_names import check_model_name, nearest_folder


class OnceCommand(TyperCommand):
    """A command that refuses an option given twice, unless it may be repeated; otherwise the last one would win."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        given = self.make_parser(ctx).parse_args(args=list(args))[2]
        for option in given:
            if isinstance(option, TyperOption) and not option.multiple and given.count(option) > 1:
                raise typer.BadParameter(f"{option.opts[0]} is given twice: give it once", ctx)
        return super().parse_args(ctx, args)


def model_name(value: Any) -> Any:
    """Check the name of a model, or of each, before torch is imported."""
    for name in [value] if isinstance(value, str | Path) else value or ():
        check_model_name(name)
    return value


def run_folder(value: Any) -> Any:
    """Check that a folder, or each, is not the misspelt name of another one, before torch is imported."""
    for name in value if isinstance(value, list) else [value]:
        if not Path(name).is_dir() and (near := nearest_folder(name)) is not None:
            raise PluralignError(f"{name}: no such folder (did you mean '{near}'?)")
    return value


Files = Annotated[list[Path], Argument(help="Files of judgments, folders or patterns of them, or hf:owner/name:split.")]
Model = Annotated[str, Argument(callback=model_name, help="A run, a model or adapter folder, or a hub id.")]
OutFolder = Annotated[Path, Option("--out", help="Output folder.")]
OutTable = Annotated[Path, Option("--out", help="Output file: .parquet, .jsonl or .jsonl.gz.")]
OutParquet = Annotated[Path, Option("--out", help="Output file: .parquet.")]

LabelScale = Annotated[str | None, Option(help="Label scale of files that store none: a built-in name or a YAML file.")]
Rename = Annotated[
    list[str] | None, Option(help="COLUMN=NAME: a column's name in the table, like user_id=annotator; can be repeated.")
]
Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="Random seed.")]
Revision = Annotated[str, Option(help="Branch, tag or commit of the model on the hub.")]
TrustRemoteCode = Annotated[bool, Option(help="Run Python code that comes with a model. Only for code that you trust.")]

MaxNewTokens = Annotated[int, Option(min=1, help="Maximum number of tokens of a response.")]
MaxPrompts = Annotated[
    int | None, Option(min=1, help="Maximum number of prompts; a random subset if the files have more.")
]
Temperature = Annotated[float, Option(help="Sampling temperature.")]

Raw = Annotated[bool, Option("--raw", help="Reward models: ignore a stored recalibration.")]
Average = Annotated[
    list[str] | None, Option(callback=model_name, help="Another reward model, to use the mean reward; can be repeated.")
]
Quantile = Annotated[float | None, Option(help="Models that predict labels: reward is this quantile, not the mean.")]
