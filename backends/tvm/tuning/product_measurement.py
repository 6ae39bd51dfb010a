"""Dense layers measured both ways, by generated code and by a library, on this machine."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.backends.tvm.build import architecture, compile_module
from dechaff.backends.tvm.library_calls import library_name
from dechaff.backends.tvm.product_choice import Product, ProductChoice
from dechaff.backends.tvm.relax_module import to_relax
from dechaff.ir import Module, parse

from .log_folder import TargetLog
from .product_records import MeasuredProduct
from .static_kernels import Sizes, rows_at

_TEXT = """
<ir_version: 10, opset_import: ["" : 23]>
layer ({type}[R,{inputs}] x, {type}[{inputs},{outputs}] weight, {type}[{outputs}] bias)
    => ({type}[R,{outputs}] y)
{{
    product = MatMul (x, weight)
    {sum}
    {y}
}}
"""
_LAST = {
    "none": "y = Identity ({})",
    "gelu": "y = Gelu ({})",
    "gelu_tanh": 'y = Gelu <approximate = "tanh"> ({})',
}
_ONNX_TYPES = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16"}


def products_of(module: Module, target: Any, sizes: Sizes) -> dict[Product, int]:
    """The dense layers of an optimized module that a library could compute, with their rows.

    Raises:
        LoweringRejectedError: operators that are not lowered.
    """
    if library_name(target.kind.name) is None:
        return {}
    lowered = to_relax(module, target.kind.name, architecture(target))
    found: dict[Product, int] = {}
    for product, leading in lowered.products:
        rows = rows_at(leading, sizes)
        if rows is not None:
            found[product] = max(rows, found.get(product, 1))
    return found


def measure_products(
    products: dict[Product, int],
    target: Any,
    sizes: Sizes,
    log: TargetLog | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[MeasuredProduct]:
    """Measure each layer both ways.

    Args:
        products: layers and their rows.
        target: TVM's target; its device must be here.
        sizes: the sizes of the model, kept with the measurement.
        log: schedules that were tuned; a generated kernel is as fast as the best of them for a
            product of these sizes. None for default schedules.
        progress: told before each layer.
    """
    package = library_name(target.kind.name) or ""
    version = f"{package} {importlib.metadata.version(package)}"
    measured = []
    for product, rows in products.items():
        progress(f"library or generated: {product}")
        layer, x = _layer(product), _random(product.dtype, rows, product.inputs)
        by_library = ProductChoice(default="library")
        library = compile_module(layer, target, products=by_library).seconds_of_run([x])
        generated = None if log is None else _best_tuned(log, product, rows)
        if generated is None:
            generated = compile_module(layer, target).seconds_of_run([x])
        measured.append(MeasuredProduct(product, dict(sizes), rows, generated, library, version))
    return measured


def _layer(product: Product) -> Module:
    """The layer as a module with random weights."""
    summed = "sum" if product.has_bias else "product"
    text = _TEXT.format(
        type=_ONNX_TYPES[product.dtype],
        inputs=product.inputs,
        outputs=product.outputs,
        sum="sum = Add (product, bias)" if product.has_bias else "",
        y=_LAST[product.activation].format(summed),
    )
    module = parse(text)
    for value in list(module.graph.inputs)[1:]:
        module.graph.inputs.remove(value)
        shape = [int(size) for size in value.shape or () if isinstance(size, int)]
        value.const_value = ir.Tensor(_random(product.dtype, *shape), name=value.name)
        module.graph.register_initializer(value)
    return module


def _random(dtype: str, *shape: int) -> Any:
    """Seeded numbers, small enough that a sum of 16-bit floats does not overflow."""
    numbers = np.random.default_rng(0).standard_normal(shape) / math.sqrt(shape[0])
    if dtype == "bfloat16":
        import ml_dtypes

        return numbers.astype(ml_dtypes.bfloat16)
    return numbers.astype(dtype)


def _best_tuned(log: TargetLog, product: Product, rows: int) -> float | None:
    """Seconds of the fastest tuned kernel of [rows, inputs] x [inputs, outputs]; None without."""
    best: float | None = None
    for record in log.database.get_all_tuning_records():
        if record.run_secs is None or not _multiplies(record.workload.mod["main"], product, rows):
            continue
        seconds = sum(float(item) for item in record.run_secs) / len(record.run_secs)
        best = seconds if best is None else min(best, seconds)
    return best


def _multiplies(function: Any, product: Product, rows: int) -> bool:
    """Whether a kernel with static sizes reads such a product's two factors."""
    shapes = [[int(size) for size in parameter.ty.shape] for parameter in function.params]
    weight = [product.inputs, product.outputs]
    return weight in shapes and any(
        len(shape) > 1 and shape[-1] == product.inputs and math.prod(shape[:-1]) == rows
        for shape in shapes
    )
