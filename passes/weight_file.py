"""A file for the new weights of a pass, until the model is saved or served."""

from __future__ import annotations

import mmap
import tempfile
from typing import IO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

_IN_MEMORY_BYTES = 1 << 20
_PIECE_BYTES = 1 << 28
"""Arrays share a mapping, as each one takes an open file, and a process may have a thousand. The
part of a piece that nothing is written to takes no room on the disk."""
_ALIGNMENT = 64


class WeightFile:
    """Keeps large arrays in files without a name, which go with the last array in them."""

    def __init__(self) -> None:
        self._current: tuple[IO[bytes], mmap.mmap] | None = None
        self._used = 0

    def keep(self, array: Array) -> Array:
        """The same array in order C: mapped from a file, read-only, if it is large.

        Raises:
            OSError: the disk is full.
        """
        if array.nbytes < _IN_MEMORY_BYTES:
            return np.ascontiguousarray(array)
        file, mapped = self._piece(array.nbytes)
        # Written as a file and not through the mapping: a full disk is then an error.
        file.seek(self._used)
        file.write(np.ascontiguousarray(array).data.cast("B"))
        file.flush()
        kept: Array = np.frombuffer(mapped, array.dtype, array.size, self._used)
        self._used += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return kept.reshape(array.shape)

    def _piece(self, size: int) -> tuple[IO[bytes], mmap.mmap]:
        """The file and its mapping, with room for so many bytes more."""
        if self._current is None or self._used + size > len(self._current[1]):
            if self._current is not None:
                self._current[0].close()
            file = tempfile.TemporaryFile(prefix="dechaff-")  # noqa: SIM115
            file.truncate(max(_PIECE_BYTES, size))
            mapped = mmap.mmap(file.fileno(), max(_PIECE_BYTES, size), access=mmap.ACCESS_READ)
            self._current, self._used = (file, mapped), 0
        return self._current
