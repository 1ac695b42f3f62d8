"""Keyed pseudonyms: one annotator and one key give one name, which cannot be traced back without the key."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from pathlib import Path

from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors

KEY_VARIABLE = "PLURALIGN_KEY"


def pseudonymizer(key: bytes) -> Callable[[str], str]:
    """A function from names to pseudonyms: `p` and 20 hexadecimal digits of HMAC-SHA256 under `key`.

    Args:
        key: at least 16 bytes; who has the key can test whether a name belongs to a pseudonym.

    Raises:
        PluralignError: the key is too short to protect names from being guessed.

    Examples:
        >>> name = pseudonymizer(b"sixteen bytes or more")
        >>> name("ann") == name("ann"), name("ann") == name("bob"), len(name("ann"))
        (True, False, 21)
    """
    if len(key) < 16:
        raise PluralignError("the key for pseudonyms has fewer than 16 bytes: use a longer one, and keep it secret")
    return lambda name: "p" + hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:20]


def pseudonym_key(key_file: str | os.PathLike[str] | None = None) -> bytes:
    """The key from a file, or from the environment variable `PLURALIGN_KEY`.

    Raises:
        PluralignError: there is no key.
    """
    if key_file is not None:
        with disk_errors(key_file):
            return Path(key_file).read_bytes().strip()
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise PluralignError(f"--anonymize needs a key: set {KEY_VARIABLE} or name a file with --key-file")
    return key.encode()
