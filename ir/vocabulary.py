"""Which tokens a model kept when its vocabulary was trimmed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A trimmed vocabulary: a token's new id is its place among those kept.

    Attributes:
        size: number of tokens before.
        kept: old ids of the tokens kept, ascending.
        unknown: old id of the token whose row stands for those that went.
        inputs: graph inputs that hold token ids.
        outputs: graph outputs whose last axis has an element for each token kept.
    """

    size: int
    kept: tuple[int, ...]
    unknown: int
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def new_ids(self) -> npt.NDArray[np.int32]:
        """int32[size]: the new id of each old one; that of the unknown token where it went."""
        kept = np.array(self.kept, np.int64)
        ids = np.full(self.size, np.searchsorted(kept, self.unknown), np.int32)
        ids[kept] = np.arange(len(kept), dtype=np.int32)
        return ids

    def inputs_of_kept(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The inputs with kept tokens, by turns, in place of those that went."""
        kept = np.array(self.kept)
        return {
            name: np.where(np.isin(array, kept), array, kept[array % len(kept)]).astype(array.dtype)
            if name in self.inputs
            else array
            for name, array in inputs.items()
        }

    def columns(self, outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Outputs of the model before, with the columns of the tokens kept."""
        return {
            name: array[..., list(self.kept)]
            if name in self.outputs and array.shape[-1] == self.size
            else array
            for name, array in outputs.items()
        }

    def to_json(self) -> str:
        """The map from old to new ids as JSON; ids that are not in it are the unknown token's."""
        ids = self.new_ids()
        data = {
            "old_size": self.size,
            "new_size": len(self.kept),
            "unknown": {"old": self.unknown, "new": int(ids[self.unknown])},
            "outputs": list(self.outputs),
            "new_ids": {str(old): new for new, old in enumerate(self.kept)},
        }
        return json.dumps(data, indent=1)
