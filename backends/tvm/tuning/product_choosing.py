"""Which dense layers call a library: by what a tuning log holds, and by measuring here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from dechaff.backends.tvm.product_choice import Product, ProductChoice
from dechaff.ir import Module

from .log_folder import TargetLog
from .product_measurement import measure_products, products_of
from .product_records import choice_of, measured_product, read_products
from .static_kernels import Sizes

Cached = Callable[[dict[str, Any], Callable[[], dict[str, Any]]], dict[str, Any]]
"""Given what a measurement depends on, and what measures: the measurement, as plain data."""


def choose_products(
    module: Module,
    target: Any,
    sizes: Sizes,
    tuning_log: str | os.PathLike[str] | None,
    measure: bool,
    cached: Cached,
) -> ProductChoice:
    """See :func:`dechaff.backends.tvm.choose_products`."""
    log = None if tuning_log is None else TargetLog.find(tuning_log, target)
    choice = choice_of([] if log is None else read_products(log.folder), sizes)
    if not measure:
        return choice
    lacking = {
        product: rows
        for product, rows in products_of(module, target, sizes).items()
        if product not in choice.measured
    }
    found = dict(choice.measured)
    for product, rows in lacking.items():
        fields = cached(
            _key(product, rows, target), _measurement(product, rows, target, sizes, log)
        )
        found[product] = measured_product(fields).faster
    return ProductChoice(measured=found)


def _key(product: Product, rows: int, target: Any) -> dict[str, Any]:
    return {"product": dataclasses.asdict(product), "rows": rows, "target": str(target)}


def _measurement(
    product: Product, rows: int, target: Any, sizes: Sizes, log: TargetLog | None
) -> Callable[[], dict[str, Any]]:
    def measure() -> dict[str, Any]:
        (measured,) = measure_products({product: rows}, target, sizes, log)
        return dataclasses.asdict(measured)

    return measure
