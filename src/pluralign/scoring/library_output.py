"""What the libraries below would show while they work for pluralign: progress bars, and what they will change."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

from pluralign.core.progress import CONSOLE


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within a context, no bars of `transformers` and `datasets` and no warnings of what libraries will change.

    Bars of downloads stay as they are. Where the console is verbose everything stays.
    """
    if CONSOLE.verbose:
        yield
        return
    downloads, loading = not are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    datasets = sys.modules.get("datasets")  # where it is not loaded it shows nothing
    mapping = datasets is not None and not datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            if loading:
                logging.disable_progress_bar()
                _show_downloads(downloads)
            if datasets is not None and mapping:
                datasets.disable_progress_bars()
            yield
        finally:
            if loading:
                logging.enable_progress_bar()
                _show_downloads(downloads)
            if datasets is not None and mapping:
                datasets.enable_progress_bars()


def _show_downloads(wanted: bool) -> None:
    """`transformers` switches the bars of downloads with its own."""
    if wanted and are_progress_bars_disabled():
        enable_progress_bars()
    elif not wanted and not are_progress_bars_disabled():
        disable_progress_bars()
