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
        self._file: IO[bytes] | None = None
        self._mapped: mmap.mmap | None = None
        self._used = 0

    def keep(self, array: Array) -> Array:
        """The same array in order C: mapped from a file, read-only, if it is large.

        Raises:
            OSError: the disk is full.
        """
        if array.nbytes < _IN_MEMORY_BYTES:
            return np.ascontiguousarray(array)
        if self._mapped is None or self._used + array.nbytes > len(self._mapped):
            self._open(max(_PIECE_BYTES, array.nbytes))
        assert self._file is not None  # it was opened
        # Written as a file and not through the mapping: a full disk is then an error.
        self._file.seek(self._used)
        self._file.write(np.ascontiguousarray(array).data.cast("B"))
        self._file.flush()
        kept = np.frombuffer(self._mapped, array.dtype, array.size, self._used)
        self._used += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return kept.reshape(array.shape)

    def _open(self, size: int) -> None:
        if self._file is not None:
            self._file.close()
        self._file = tempfile.TemporaryFile(prefix="dechaff-")  # noqa: SIM115
        self._file.truncate(size)
        self._mapped = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ)
        self._used = 0
