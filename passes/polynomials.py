"""Chains of arithmetic as polynomials: one look at the formula instead of one look per spelling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from .matching import made_by, scalar

Monomial = tuple[int, ...]
"""Exponents of the variables, in the order they were given."""

Polynomial = dict[Monomial, float]
"""Coefficients by monomial; those that are zero are left out."""

_MAX_DEPTH = 8
_MAX_DEGREE = 4
_RELATIVE_TOLERANCE = {ir.DataType.FLOAT16: 2e-3, ir.DataType.BFLOAT16: 2e-2}
_FLOAT32_TOLERANCE = 1e-6
"""Constants are written with the accuracy of their dtype, and products of some are compared."""


def polynomial(value: ir.Value | None, variables: Sequence[ir.Value]) -> Polynomial | None:
    """The value as a polynomial in ``variables``, or None if it is not one of low degree.

    Sees through ``Add``, ``Sub``, ``Mul``, ``Neg``, ``Div`` by a constant and ``Pow`` with a
    small constant exponent; constants have one element.
    """
    return _expand(value, variables, _MAX_DEPTH)


def _expand(value: ir.Value | None, variables: Sequence[ir.Value], depth: int) -> Polynomial | None:
    if value is None or depth == 0:
        return None
    if value in variables:
        return {tuple(int(value is variable) for variable in variables): 1.0}
    number = scalar(value)
    if number is not None:
        return _cleaned({(0,) * len(variables): number}) if math.isfinite(number) else None
    node = made_by(value, "Add", "Sub", "Mul", "Div", "Neg", "Pow")
    if node is None:
        return None
    operands = [_expand(operand, variables, depth - 1) for operand in node.inputs]
    left, right = operands[0], operands[-1]
    if left is None or right is None:
        return None
    return _combine(node.op_type, left, right)


def _combine(op_type: str, left: Polynomial, right: Polynomial) -> Polynomial | None:
    if op_type == "Add":
        return _sum(left, right, 1.0)
    if op_type == "Sub":
        return _sum(left, right, -1.0)
    if op_type == "Neg":
        return _sum({}, left, -1.0)
    if op_type == "Mul":
        return _product(left, right)
    constant = _constant(right)
    if constant is None:
        return None
    if op_type == "Div":
        return _sum({}, left, 1.0 / constant) if constant else None
    if constant not in (1.0, 2.0, 3.0):
        return None
    result: Polynomial | None = left
    for _ in range(int(constant) - 1):
        result = None if result is None else _product(result, left)
    return result


def _constant(terms: Polynomial) -> float | None:
    if not terms:
        return 0.0
    if len(terms) > 1 or any(any(monomial) for monomial in terms):
        return None
    return next(iter(terms.values()))


def _sum(left: Polynomial, right: Polynomial, factor: float) -> Polynomial:
    keys = dict.fromkeys([*left, *right])
    return _cleaned({key: left.get(key, 0.0) + factor * right.get(key, 0.0) for key in keys})


def _product(left: Polynomial, right: Polynomial) -> Polynomial | None:
    result: Polynomial = {}
    for left_key, left_factor in left.items():
        for right_key, right_factor in right.items():
            key = tuple(a + b for a, b in zip(left_key, right_key, strict=True))
            result[key] = result.get(key, 0.0) + left_factor * right_factor
    if any(sum(key) > _MAX_DEGREE for key in result):
        return None
    return _cleaned(result)


def _cleaned(terms: Polynomial) -> Polynomial:
    return {key: factor for key, factor in terms.items() if factor != 0.0}


def mismatch(
    found: Mapping[Monomial, float], wanted: Mapping[Monomial, float], dtype: ir.DataType | None
) -> str | None:
    """What is different, in words; None if the two are equal up to rounding in ``dtype``.

    A missing term counts as a difference: that is another formula, not another constant.
    """
    tolerance = _FLOAT32_TOLERANCE
    if dtype is not None:
        tolerance = _RELATIVE_TOLERANCE.get(dtype, _FLOAT32_TOLERANCE)
    for key in dict.fromkeys([*wanted, *found]):
        has, needs = found.get(key, 0.0), wanted.get(key, 0.0)
        if not math.isclose(has, needs, rel_tol=tolerance):
            return f"a factor is {has:.7g} where {needs:.7g} belongs"
    return None
