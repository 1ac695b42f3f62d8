"""Names of models: a folder or a hub id. A misspelt folder is recognised before heavy libraries load."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from pluralign.core.errors import PluralignError

_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
"""What a hub id looks like: `name` or `owner/name`."""


def check_model_name(name: str | os.PathLike[str]) -> None:
    """Check that there is such a model folder, or that there may be such a model on the hub.

    The hub is asked only where a folder has nearly the same name.

    Raises:
        PluralignError: there is neither; names the nearest folder.

    Examples:
        >>> check_model_name("./modell")
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: ./modell: no such folder
        >>> check_model_name("owner/model")
    """
    given = os.fspath(name)
    if Path(given).exists():
        return
    near = nearest_folder(given)
    hint = "" if near is None else f" (did you mean '{near}'?)"
    if not _ID.fullmatch(given):
        raise PluralignError(f"{given}: no such folder{hint}")
    if near is not None and (missing := _not_on_hub(given)) is not None:
        raise PluralignError(f"{given}: no such folder, and {missing}{hint}")


def nearest_folder(name: str | os.PathLike[str]) -> str | None:
    """The folder whose path is spelt most like a name, part by part; `None` if a part is like no folder."""
    path = Path(name)
    found = Path(path.anchor)
    for part in path.parts[len(found.parts) :]:
        if part != ".." and not (found / part).is_dir():
            try:
                folders = [one.name for one in found.iterdir() if one.is_dir()]
            except OSError:
                return None
            close = difflib.get_close_matches(part, folders, n=1)
            if not close:
                return None
            part = close[0]
        found /= part
    return str(found)


def _not_on_hub(name: str) -> str | None:
    """Why a model can be had neither from the hub nor from its cache; `None` if it can, or if loading will tell."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "adapter_config.json")):
            return None
        if constants.is_offline_mode():
            return "no such model in the cache of the hub"
        HfApi().model_info(name, timeout=10)
    except (RepositoryNotFoundError, HFValidationError):
        return "no such model on the hub"
    except HfHubHTTPError:  # a gated model, a server in trouble
        return None
    except Exception:  # of the network; its class depends on the client that the hub's library uses
        return "the hub cannot be reached"
    return None
