"""Fingerprints: the same content has the same fingerprint on every machine."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def fingerprint(*parts: object) -> str:
    """32 hexadecimal digits of the SHA-256 of plain values (numbers, strings, lists, dicts, bytes, None).

    Examples:
        >>> fingerprint("a", [1, 2]) == fingerprint("a", [1, 2]), fingerprint("ab", "c") == fingerprint("a", "bc")
        (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, ensure_ascii=False).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def fingerprint_folder(folder: str | os.PathLike[str]) -> str:
    """The fingerprint of the names and contents of a folder's files (a model on disk), without subfolders and locks."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.is_file() and file.name != ".lock":
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with open(file, "rb") as data:
                digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()[:32]
