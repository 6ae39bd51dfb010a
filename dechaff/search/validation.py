"""The user's data: batches that fit the model, and a part of them that the search never sees."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import Any

from dechaff.arrays import Arrays, check_inputs, runtime_inputs
from dechaff.digests import add_to_digest
from dechaff.ir import Module, UsageError

from .metrics import Batch

_HELD_OUT_SHARE = 1 / 3
_LEAST_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class LabelledInputs:
    """A batch of data.

    Attributes:
        batch: as the user gave it.
        inputs: the graph inputs in it, checked.
    """

    batch: Batch
    inputs: Arrays


@dataclasses.dataclass(frozen=True)
class ValidationData:
    """The two parts of the data.

    Attributes:
        searched: batches that the search looks at.
        held_out: batches that only the final report looks at.
    """

    searched: Sequence[LabelledInputs]
    held_out: Sequence[LabelledInputs]

    def digest(self) -> str:
        """Names the data: the same arrays in the same split."""
        state = hashlib.sha256()
        for part in (self.searched, self.held_out):
            state.update(b"part")
            for item in part:
                add_to_digest(state, item.batch)
        return state.hexdigest()


def split_data(module: Module, data: Iterable[Batch], seed: int) -> ValidationData:
    """Check the batches, and hold a third of them out.

    Args:
        module: whose inputs the batches hold.
        data: batches, each a mapping from name to array; what is no input of the model, such as
            labels, is for the metric.
        seed: which batches are held out.

    Raises:
        UsageError: there are no batches, or too few to hold one out.
        InputRejectedError: a batch does not fit the model.
    """
    batches = _batches(data)
    if len(batches) < _LEAST_BATCHES:
        raise UsageError(
            f"data holds {len(batches) or 'no'} batch{'es' if not batches else ''}; expected at "
            f"least {_LEAST_BATCHES}, of some hundred rows together: a third is held out for the "
            "report"
        )
    names = {value.name for value in runtime_inputs(module)}
    items = [
        LabelledInputs(batch, check_inputs(module, {k: v for k, v in batch.items() if k in names}))
        for batch in batches
    ]
    if all(not len(next(iter(item.inputs.values()), ())) for item in items):
        raise UsageError("data holds no rows: expected batches of inputs with labels")
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    held_out = set(order[: max(1, round(_HELD_OUT_SHARE * len(items)))])
    return ValidationData(
        [item for index, item in enumerate(items) if index not in held_out],
        [item for index, item in enumerate(items) if index in held_out],
    )


def _batches(data: Any) -> list[Batch]:
    if isinstance(data, dict):
        raise UsageError(
            "data is one mapping; expected a sequence of batches, each a mapping from input names "
            "(and 'labels') to arrays"
        )
    batches = list(data)
    for batch in batches:
        if not hasattr(batch, "keys"):
            raise UsageError(
                f"a batch of data is a {type(batch).__name__}; expected a mapping from input names "
                "(and 'labels') to arrays"
            )
    return [dict(batch) for batch in batches]
