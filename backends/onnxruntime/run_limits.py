"""How long a run on trial inputs may take, and what stops one that never ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dechaff.ir import Module, num_parameters

_LEAST_SECONDS = 4.0
_SECONDS_PER_NODE = 1e-3
_SECONDS_PER_PRODUCT = 2e-9
"""Some hundred times what a product of a weight and an input takes on one core."""

_OUT_OF_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
    "cannot allocate memory",
    "not enough memory",
    "pthread_create failed",
)
"""What the runtime says, in small letters, when it gets no memory."""


class RunLimit:
    """How long a model may run, by its size; a file from a stranger may hold an endless loop.

    The bound goes by the work that the weights are there for, and lies far above what any machine
    needs: who waits that long waits for ever.
    """

    def __init__(self, module: Module) -> None:
        self._parameters = num_parameters(module)
        self._nodes = sum(1 for _ in module.nodes())

    def seconds(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> float:
        """Seconds that a run on these inputs may take."""
        elements = max((np.asarray(array).size for array in inputs.values()), default=1)
        products = self._parameters * elements
        return _LEAST_SECONDS + _SECONDS_PER_NODE * self._nodes + _SECONDS_PER_PRODUCT * products


@contextlib.contextmanager
def stopped_after(seconds: float | None, options: Any) -> Iterator[threading.Event]:
    """Let the runtime end a run between two operations, once its time is over.

    Args:
        seconds: the time; None if there is no end to it.
        options: ``onnxruntime.RunOptions`` of the run.

    Yields:
        What is set if the time was over.

    Raises:
        MemoryError: there is none for the thread that watches.
    """
    overdue = threading.Event()
    if seconds is None:
        yield overdue
        return

    def stop() -> None:
        overdue.set()
        options.terminate = True

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError as error:
        raise MemoryError("no memory for a thread") from error
    try:
        yield overdue
    finally:
        timer.cancel()


def is_out_of_memory(error: Exception) -> bool:
    """Whether the runtime, or Python, was refused memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)
