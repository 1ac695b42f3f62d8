"""Fingerprints of content: the same content gives the same name, on any machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path


def fingerprint(*parts: object) -> str:
    """A 32-digit hexadecimal name of plain values (numbers, strings, lists, dicts, bytes, None).

    Examples:
        >>> fingerprint("a", [1, 2]) == fingerprint("a", [1, 2])
        True
        >>> fingerprint("ab", "c") == fingerprint("a", "bc")
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, ensure_ascii=False).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def fingerprint_texts(texts: Iterable[str]) -> str:
    """A fingerprint of a sequence of texts, in order, without joining them in memory."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def fingerprint_folder(folder: str | os.PathLike[str]) -> str:
    """A fingerprint of a folder's own files by name and content (a model on disk); subfolders are left out."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.is_file():
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with open(file, "rb") as data:
                digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()[:32]
