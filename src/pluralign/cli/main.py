"""The command line: the order of the commands, and how errors end."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from pluralign.cli import data, models, options, policies
from pluralign.cli.fields import TrainCommand
from pluralign.cli.verbosity import set_verbosity
from pluralign.cli.votes import votes
from pluralign.core.errors import Interrupted, PluralignError, TrainingError, nearest, one_line
from pluralign.core.files import disk_message
from pluralign.core.progress import CONSOLE


def demo(
    out: options.OutFolder = Path("demo-out"),
    data_only: Annotated[
        bool, Option("--data-only", help="Write the data, the YAML files and the language model, and stop.")
    ] = False,
    seed: options.Seed = 0,
) -> None:
    """Run the whole pipeline on a simulated town.

    Takes five to eight minutes on two CPU cores. With --verbose, prints all tables.
    """
    from pluralign.demo.run import demo as run
    from pluralign.demo.run import demo_data

    if data_only:
        typer.echo(demo_data(out, seed))
        return
    told = run(out, seed)
    typer.echo("\n".join(["", *told.answers, *(told.tables if CONSOLE.verbose else []), *told.files]))


def report(
    folders: Annotated[
        list[Path],
        Argument(callback=options.run_folder, help="Finished folders of train, evaluate, audit or aggregate."),
    ],
    out: Annotated[Path, Option("--out", help="Output file: .html.")],
) -> None:
    """Build one HTML page from the folders of finished runs."""
    from pluralign.workflows.report import report as run

    run(folders, out)
    typer.echo(f"written to {out}")


def env() -> None:
    """Print versions and hardware, for a bug report."""
    from pluralign.core.runs import environment

    info = environment()
    import torch

    info["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    typer.echo(json.dumps(info, indent=2))


COMMANDS: dict[str, Callable[..., None] | typer.Typer] = {
    "demo": demo,
    "import": data.import_,
    "export": data.export,
    "split": data.split,
    "audit": data.audit,
    "train": models.train,
    "calibrate": models.calibrate,
    "evaluate": models.evaluate,
    "score": models.score,
    "best-of": policies.best_of,
    "route": policies.route,
    "aggregate": policies.aggregate,
    "votes": votes,
    "report": report,
    "env": env,
}
"""The commands in the order of the work, as `--help` lists them."""


class _InOrder(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)


app = typer.Typer(name="pluralign", cls=_InOrder, pretty_exceptions_enable=False, rich_markup_mode=None)
for name, command in COMMANDS.items():
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    elif command is models.train:
        flags = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, cls=TrainCommand, context_settings=flags)(command)
    else:
        app.command(name, cls=options.OnceCommand)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"pluralign {importlib.metadata.version('pluralign')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Align language models with a population, not with an average annotator.

    Every command also takes --quiet (print results and errors only) and --verbose (also the warnings and progress bars
    of the libraries below).
    """


_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)  # typer does not export this class


def main() -> None:
    """Run a command and exit.

    0 done; 2 bad input or usage, 1 training that failed, 130 interrupted, each with one line; 1 with a traceback for a
    fault of pluralign.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end the command
    message = None
    words = set_verbosity(sys.argv[1:])
    try:
        _check_words(words)
        code = app(words or ["--help"], prog_name="pluralign", standalone_mode=False) or 0
    except PluralignError as error:
        code, message = 2, str(error)
    except TrainingError as error:
        code, message = 1, str(error)
    except _UsageError as error:
        code, message = 2, _usage_message(error)
    except Interrupted as stop:
        code, message = 130, str(stop) or None
    except typer.Abort:
        code = 130
    except OSError as error:
        if (message := disk_message(error)) is None:
            raise
        code = 2
    if code == 130 and message is None:
        message = "interrupted; the same command continues or starts again"
    if message is not None:
        print(f"pluralign: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _check_words(words: list[str]) -> None:
    """Check that the words of the command line are text: names in another encoding cannot be written down."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise PluralignError(f"found {one_line(word)}, which is not UTF-8: rename the file or folder") from None


def _usage_message(error: typer.BadParameter) -> str:
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    if match := re.search(r"'([^']*)' is not one of (.*)", message):
        message += nearest(match[1], re.findall(r"'(.*?)'", match[2]))
    return message if error.ctx is None else f"{message} (see '{error.ctx.command_path} --help')"
