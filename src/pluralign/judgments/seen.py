"""Which texts repeat earlier ones, in whole columns and in little memory: by their hashes, confirmed by the texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_LONG = 64  # bytes from which on Python hashes a text
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class SeenTexts:
    """Texts that come in parts.

    Examples:
        >>> seen = SeenTexts()
        >>> seen.add(pa.array(["a", "b", "a"])).tolist(), seen.add(pa.array(["c", "b"])).tolist()
        ([False, False, True], [False, True])
        >>> [part.to_pylist() for part in seen.parts]
        [['a', 'b'], ['c']]
    """

    def __init__(self) -> None:
        self.parts: list[pa.Array] = []
        self._starts = [0]
        # Hashes in ascending order with the rows of their texts; each run is at least twice as long as the next one.
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, texts: pa.Array) -> np.ndarray:
        """Add texts, and say which of them were there before, in this part or in an earlier one: `(texts,)` bool."""
        hashes = text_hashes(texts)
        order = np.argsort(hashes)
        hashes = hashes[order]
        doubtful = np.zeros(len(texts), dtype=bool)  # in the order of the hashes
        doubtful[1:] = hashes[1:] == hashes[:-1]
        doubtful[:-1] |= doubtful[1:]
        earlier = [np.zeros(0, np.uint32)]
        for known, rows in self._runs:
            at = np.searchsorted(known, hashes)
            found = known.take(at, mode="clip") == hashes
            doubtful |= found
            ends = np.searchsorted(known, hashes[found], "right")
            earlier += [rows[low:high] for low, high in {*zip(at[found].tolist(), ends.tolist(), strict=True)}]
        repeated = np.zeros(len(texts), dtype=bool)
        if doubtful.any():
            same = self._texts(np.concatenate(earlier))
            places = np.sort(order[doubtful])
            for place, text in zip(places.tolist(), texts.take(pa.array(places)).to_pylist(), strict=True):
                repeated[place] = text in same
                same.add(text)
            fresh = ~repeated
            hashes, order = hashes[fresh[order]], (np.cumsum(fresh) - 1)[order[fresh[order]]]
            texts = texts.filter(pa.array(fresh))
        if not len(texts):
            return repeated
        self._runs.append((hashes, (order + self._starts[-1]).astype(np.uint32)))
        self.parts.append(texts)
        self._starts.append(self._starts[-1] + len(texts))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            hashes, rows = (np.concatenate(pieces) for pieces in zip(*self._runs[-2:], strict=True))
            del self._runs[-2:]  # before the copies in order
            order = np.argsort(hashes, kind="stable")
            self._runs.append((hashes[order], rows[order]))
        return repeated

    def _texts(self, rows: np.ndarray) -> set[str]:
        """The texts of some rows."""
        rows = rows.astype(np.int64)
        part = np.searchsorted(self._starts, rows, "right") - 1
        return {
            text
            for number in np.unique(part).tolist()
            for text in self.parts[number].take(pa.array(rows[part == number] - self._starts[number])).to_pylist()
        }


def all_differ(texts: pa.ChunkedArray) -> bool:
    """Whether all texts of a column surely differ."""
    hashes = np.sort(np.concatenate([np.zeros(0, np.uint64), *map(text_hashes, texts.chunks)]))
    return bool((hashes[1:] > hashes[:-1]).all())


def text_hashes(texts: pa.Array) -> np.ndarray:
    """A hash of each text, `(texts,)` uint64; only this process can compare them."""
    if not len(texts):
        return np.zeros(0, np.uint64)
    starts = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    letters = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    lengths = np.diff(starts)
    hashes = np.zeros(len(texts), np.uint64)
    for length in np.unique(lengths[(lengths > 0) & (lengths < _LONG)]).tolist():
        of = np.flatnonzero(lengths == length)
        hashes[of] = _mixed(np.lib.stride_tricks.sliding_window_view(letters, length)[starts[of]])
    if len(long := np.flatnonzero(lengths >= _LONG)):
        whole = [hash(text) for text in texts.take(pa.array(long)).to_pylist()]
        hashes[long] = np.array(whole, np.int64).view(np.uint64)
    return hashes


def _mixed(letters: np.ndarray) -> np.ndarray:
    """The hashes of texts of one length, `(texts, length)` uint8."""
    length = letters.shape[1]
    if length % 8:
        letters = np.pad(letters, ((0, 0), (0, -length % 8)))
    words = letters.view(np.uint64)
    mixed = np.full(len(letters), length, np.uint64) * _FACTOR  # or `a` would be `b` with a null byte
    for word in words.T:
        mixed ^= word
        mixed *= _FACTOR
        mixed ^= mixed >> np.uint64(32)
    return mixed
