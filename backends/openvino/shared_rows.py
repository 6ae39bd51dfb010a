"""Batches whose rows are shared out to requests, so that no thread waits for another in a layer.

Threads of one request meet after each operator; those of two meet once, at the end. That pays where
the parts take equally long: a packed model takes as long as its tokens need.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dechaff.backends.onnxruntime.session import Arrays
from dechaff.backends.onnxruntime.session_settings import SessionSettings
from dechaff.ir import Module

from .session import OpenVinoSession

_MOST_OVER_MEAN = 1.05
"""How much more than their mean the largest part may have; what is gained is less than a tenth."""

Rows = npt.NDArray[np.int64]


class SharedRows:
    """A model in OpenVINO whose batches are shared out by rows, where that pays.

    Attributes:
        input_names: names of the graph inputs, in order.
        output_names: names of the graph outputs, in order.
    """

    def __init__(self, module: Module, *, settings: SessionSettings | None = None) -> None:
        """Load the module.

        Args:
            module: a lowered module; all its inputs and outputs have a part for each row on axis 0,
                and what a row gives is the same in any batch.
            settings: threads and requests; the defaults if None.

        Raises:
            UsageError: see :class:`OpenVinoSession`.
            RuntimeFailedError: the same.
        """
        self._module, self._settings = module, settings
        self._whole = OpenVinoSession(module, settings=settings)
        self.input_names, self.output_names = self._whole.input_names, self._whole.output_names

    @functools.cached_property
    def _shared(self) -> OpenVinoSession:
        """The model once more, in requests of fewer threads; when a batch first asks for it."""
        return OpenVinoSession(self._module, settings=self._settings, share_threads=True)

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> Arrays:
        """Run the model; arguments, results and errors are those of :meth:`Session.run`."""
        tokens = self._tokens(inputs)
        parts = [] if len(tokens) < 2 else deal(tokens, self._shared.num_requests)
        most = max((tokens[rows].sum() for rows in parts), default=0)
        if len(parts) < 2 or most * self._shared.num_requests > _MOST_OVER_MEAN * tokens.sum():
            return self._whole.run(inputs, outputs)
        batches = [{name: array[rows] for name, array in inputs.items()} for rows in parts]
        found = self._shared.run_side_by_side(batches, outputs)
        back = np.argsort(np.concatenate(parts))
        return {name: np.concatenate([part[name] for part in found])[back] for name in found[0]}

    def _tokens(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Rows:
        """Tokens of each row, int64[rows]; one each, if no input says; empty without rows."""
        sizes = {len(array) if array.ndim else 0 for array in inputs.values()}
        if len(sizes) != 1:
            return np.zeros(0, np.int64)
        for positions in self._module.valid_positions:
            mask = inputs.get(positions.mask)
            if mask is not None and mask.ndim > 1:
                return np.asarray(positions.kept(mask).reshape(len(mask), -1).sum(axis=1))
        return np.ones(sizes.pop(), np.int64)


def deal(tokens: Rows, count: int) -> list[Rows]:
    """Rows for each of some requests: as many rows each, and nearly as many tokens.

    Args:
        tokens: tokens of each row.
        count: most parts to make.
    """
    most = -(-len(tokens) // count)
    parts: list[list[int]] = [[] for _ in range(count)]
    for row in np.argsort(-tokens, kind="stable"):
        open_parts = [part for part in parts if len(part) < most]
        min(open_parts, key=lambda part: int(tokens[part].sum())).append(int(row))
    return [np.sort(np.array(part, np.int64)) for part in parts if part]
