"""The inputs that passes may look at while they are searched, and when the result is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dechaff.arrays import Array, Arrays
from dechaff.calibration import Calibration
from dechaff.ir import Module
from dechaff.probing import fetch_values_of_batches


class SearchedInputs(Calibration):
    """Calibration data, of the caller's or the searched part of the data, for a search too."""

    @property
    def inputs(self) -> Sequence[Arrays]:
        """Batches of graph inputs by name."""
        return self.batches

    def values(self, module: Module, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """What values of the module hold on each batch, by name."""
        return fetch_values_of_batches(module, names, self.batches)
