"""Who computes a matrix product with constant weights: a library or a generated kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

Implementation = Literal["generated", "library"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)


@dataclasses.dataclass(frozen=True, order=True)
class Product:
    """A dense layer: ``activation(x weight + bias)``.

    Attributes:
        inputs: columns of x.
        outputs: columns of the result.
        activation: ``none``, ``gelu`` or ``gelu_tanh``.
        has_bias: whether a bias is added.
        dtype: of x, the weights and the result.
    """

    inputs: int
    outputs: int
    activation: str = "none"
    has_bias: bool = False
    dtype: str = "float16"

    def __str__(self) -> str:
        parts = [f"{self.inputs}x{self.outputs}", "bias" if self.has_bias else ""]
        parts += [self.activation if self.activation != "none" else ""]
        return f"{' + '.join(filter(None, parts))}, {self.dtype}"


@dataclasses.dataclass(frozen=True)
class ProductChoice:
    """Which implementation each dense layer takes.

    Attributes:
        default: for layers that ``measured`` does not name.
        measured: by layer, the faster one as it was measured on the target.
    """

    default: Implementation = "generated"
    measured: Mapping[Product, Implementation] = dataclasses.field(default_factory=dict)

    def choose(self, product: Product) -> Implementation:
        """The implementation of one dense layer."""
        return self.measured.get(product, self.default)
