"""The graph that travels through dechaff: an ``onnx_ir.Model`` and what ONNX has no field for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .errors import ModelRejectedError
from .vocabulary import Vocabulary

WORKING_OPSET = 23
"""Lowest opset a module works at: the first in which ``Attention``, ``Gelu`` and
``RMSNormalization`` are whole operators. A newer model keeps its own."""


@dataclasses.dataclass(frozen=True)
class SymbolRange:
    """The sizes a symbolic dimension may take; ``maximum`` is None where there is no bound."""

    minimum: int = 0
    maximum: int | None = None


@dataclasses.dataclass(frozen=True)
class ValidPositions:
    """Which positions of a graph output carry meaning once padding has been removed.

    Attributes:
        output: name of the graph output, of shape ``[batch, sequence, ...]``, or ``[batch, ...]``
            if ``per_row``.
        mask: name of a value of the *original* graph, ``[batch, sequence]``; a position is valid
            where it is not zero. Elsewhere the output is zero.
        per_row: the output holds one result for each row, such as a pooled state. It is valid for
            rows that have a valid position; for other rows it is finite, and means nothing.
        zero_is_valid: the mask says where padding is, as that of ``torch.nn.TransformerEncoder``
            does: a position is valid where it is zero.
    """

    output: str
    mask: str
    per_row: bool = False
    zero_is_valid: bool = False

    def kept(self, mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """True where positions are valid.

        Args:
            mask: the value of the mask, ``[batch, sequence]``.
        """
        is_zero: npt.NDArray[np.bool_] = np.equal(mask, 0)
        return is_zero if self.zero_is_valid else ~is_zero

    def meaningful(self, mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """True where the output means something: positions, or rows if ``per_row``."""
        kept = self.kept(mask)
        return np.asarray(kept.any(axis=1)) if self.per_row else kept


class CallingConvention(Protocol):
    """How the caller's arguments map to graph inputs, and graph outputs to the caller's results.

    Frontends that know the original's signature provide one; ``ir`` only carries it.
    """

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Map call arguments to numpy arrays by graph input name."""
        ...

    def unflatten(self, outputs: dict[str, Any]) -> Any:
        """Rebuild the original's output structure from numpy arrays by graph output name."""
        ...


@dataclasses.dataclass
class Module:
    """A model on its way through dechaff.

    Attributes:
        model: the graph. Its nodes are standard ONNX operators, operators of the ``dechaff``
            dialect (whose reference functions travel in ``model.functions``), or foreign
            operators, which pass through untouched.
        symbols: range of each symbolic dimension, by name.
        valid_positions: outputs whose padded positions no longer carry meaning.
        calling_convention: how the original is called; None for models that come from a file.
        source: where the model came from, for messages ("model.onnx", "torch BertModel").
        vocabulary: the tokens that are left, if the vocabulary was trimmed.
    """

    model: ir.Model
    symbols: dict[str, SymbolRange] = dataclasses.field(default_factory=dict)
    valid_positions: list[ValidPositions] = dataclasses.field(default_factory=list)
    calling_convention: CallingConvention | None = None
    source: str = "model"
    vocabulary: Vocabulary | None = None

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """Version of the standard ONNX operator set that the graph imports."""
        version = self.model.graph.opset_imports.get("")
        if version is None:
            raise ModelRejectedError(f"{self.source}: the model imports no standard ONNX opset")
        return version

    def clone(self) -> Module:
        """Copy the graph; the weights themselves are shared with the copy."""
        return dataclasses.replace(
            self,
            model=self.model.clone(),
            symbols=dict(self.symbols),
            valid_positions=list(self.valid_positions),
        )

    def nodes(self) -> Iterator[ir.Node]:
        """All nodes of the main graph and of its subgraphs, in order; function bodies excluded."""
        yield from self.model.graph.all_nodes()


def constant_value(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind a value that is known before run time, else None.

    Sees through initializers and ``Constant`` nodes. A graph input with a default is not constant:
    the caller may override it.
    """
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None:
        return value.const_value
    producer = value.producer()
    if producer is None or producer.op_type != "Constant" or producer.domain != "":
        return None
    return ir.convenience.get_const_tensor(value)


def static_dim(dim: int | ir.SymbolicDim) -> int | None:
    """The size of a dimension if it is known before run time, else None."""
    return dim if isinstance(dim, int) else None
