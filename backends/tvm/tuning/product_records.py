"""Measured products in a tuning log: which dense layers a library computes faster."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from dechaff.backends.tvm.product_choice import Implementation, Product, ProductChoice
from dechaff.ir import UsageError

from .application import distance_to

PRODUCTS = "products.json"
FORMAT = 1

_LEAST_GAIN = 0.95
"""The library is chosen below this share of the generated kernel's time: within the noise the code
that needs no library is the better one."""


@dataclasses.dataclass(frozen=True)
class MeasuredProduct:
    """One dense layer as it was measured, both ways.

    Attributes:
        product: the layer.
        sizes: the sizes of the model at which it was measured.
        rows: rows of x at these sizes.
        generated: seconds of the fastest generated kernel that is known.
        library: seconds by the library.
        package: the library's package and version.
    """

    product: Product
    sizes: dict[str, int]
    rows: int
    generated: float
    library: float
    package: str

    @property
    def faster(self) -> Implementation:
        """Who shall compute the layer."""
        return "library" if self.library < _LEAST_GAIN * self.generated else "generated"


def read_products(folder: pathlib.Path) -> list[MeasuredProduct]:
    """What a target's folder holds; nothing where nothing was measured.

    Raises:
        UsageError: the file is no such list.
    """
    path = folder / PRODUCTS
    if not path.exists():
        return []
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError("another format")
        return [measured_product(item) for item in fields["products"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: not a list of measured products: {error}") from error


def measured_product(fields: dict[str, Any]) -> MeasuredProduct:
    """A measurement from plain data."""
    return MeasuredProduct(**{**fields, "product": Product(**fields["product"])})


def add_products(folder: pathlib.Path, measured: Iterable[MeasuredProduct]) -> None:
    """Add measurements to a target's folder; a later one of the same layer and sizes replaces."""
    known = {_key(item): item for item in (*read_products(folder), *measured)}
    if not known:
        return
    listed = [dataclasses.asdict(known[key]) for key in sorted(known)]
    staged = folder / f"{PRODUCTS}.new"
    text = json.dumps({"format": FORMAT, "products": listed}, indent=2)
    staged.write_text(text + "\n", encoding="utf-8")
    os.replace(staged, folder / PRODUCTS)


def _key(item: MeasuredProduct) -> tuple[Product, str]:
    return item.product, json.dumps(item.sizes, sort_keys=True)


def choice_of(measured: Iterable[MeasuredProduct], sizes: Mapping[str, int]) -> ProductChoice:
    """For each layer, what was faster at the sizes nearest to the given ones."""
    distance = distance_to(sizes)
    nearest: dict[Product, MeasuredProduct] = {}
    for item in measured:
        other = nearest.get(item.product)
        if other is None or distance(item.sizes) < distance(other.sizes):
            nearest[item.product] = item
    return ProductChoice(measured={product: item.faster for product, item in nearest.items()})
