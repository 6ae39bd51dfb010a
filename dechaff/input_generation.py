"""Inputs to compare models on, generated from a module's signature."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, shape_expressions, symbol

from .arrays import Array, Arrays
from .input_roles import InputRole, Role, input_roles

_BATCH, _SEQUENCE, _OTHER = 4, 9, 3
"""Sizes of the batch axis, of the sequence axis and of any further symbolic axis."""

_SEED = 20

MIXED = "mixed padding"
"""The case in which the rows are padded in all ways: it stands for the others where time counts."""
NO_PADDING = "no padding, extreme values"
"""The case in which every position holds a token."""
_WAYS = ("none", "right", "left", "interleaved", "empty")


@dataclasses.dataclass(frozen=True)
class InputCase:
    """Named inputs of a module.

    Attributes:
        name: what is special about the case, such as ``left-padded``.
        inputs: an array per graph input, by name.
    """

    name: str
    inputs: Arrays


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What one case asks for: sizes of the two main axes, and which positions hold tokens."""

    name: str
    batch: int
    sequence: int
    padding: str = "none"
    extreme: bool = False


_MASKED_PLANS = (
    _Plan("right-padded", _BATCH, _SEQUENCE, "right"),
    _Plan(NO_PADDING, _BATCH, _SEQUENCE, extreme=True),
    _Plan("left-padded", _BATCH, _SEQUENCE, "left"),
    _Plan("interleaved padding", _BATCH, _SEQUENCE, "interleaved"),
    _Plan("an all-padded row", _BATCH, _SEQUENCE, "empty row"),
    _Plan("batch of 1", 1, _SEQUENCE, "right"),
    _Plan("sequence of 1", _BATCH, 1),
    _Plan(MIXED, len(_WAYS), _SEQUENCE, "mixed"),
)
_UNMASKED_PLANS = (
    _Plan("generated", _BATCH, _SEQUENCE),
    _Plan("batch of 1", 1, _SEQUENCE),
    _Plan("sequence of 1", _BATCH, 1),
    _Plan("extreme values", _BATCH, _SEQUENCE, extreme=True),
)
_EXTREME_SCALES = (0.0, 4.0, 1e-6, 1.0)
"""Factors of the rows' normal numbers, by turns: a row of zeros has no variance, and one of tiny
numbers less than the epsilon of a normalization. Larger ones would only show that softmax magnifies
rounding."""


def generate_inputs(module: Module) -> list[InputCase]:
    """Cases that cover the ways a Transformer is padded, as far as the signature allows.

    Symbolic sizes are small, the same everywhere in a case, and inside the module's ranges.
    Integers that index a table stay inside it. The same module gives the same cases.

    Returns:
        The cases, first the ragged one. A case whose sizes the ranges forbid is left out, as is one
        that equals an earlier one.
    """
    roles = input_roles(module)
    maskable = any(r.role in (Role.MASK, Role.LENGTHS) or r.padding_id is not None for r in roles)
    cases: list[InputCase] = []
    for plan in _MASKED_PLANS if maskable else _UNMASKED_PLANS:
        case = _Generator(module, roles, plan).case()
        if not any(_same_inputs(case, earlier) for earlier in cases):
            cases.append(case)
    return cases


def typical_case(module: Module, batch: int, sequence: int) -> InputCase:
    """One case of a size as served, padded on the right; its lengths are spread over 1..S.

    Args:
        module: the module.
        batch: rows, B.
        sequence: the padded length, S.
    """
    plan = _Plan("typical", batch, sequence, "right")
    return _Generator(module, input_roles(module), plan).case()


def few_cases(cases: Sequence[InputCase]) -> list[int]:
    """Which cases cover the ways of padding in the fewest tokens.

    Returns:
        Indices: the mixed case, and the first that was not generated. All, if there is no mixed
        case with rows enough for all ways.
    """
    names = [case.name for case in cases]
    if MIXED not in names:
        return list(range(len(cases)))
    mixed = cases[names.index(MIXED)]
    if any(array.ndim and len(array) < len(_WAYS) for array in mixed.inputs.values()):
        return list(range(len(cases)))
    replaced = {plan.name for plan in _MASKED_PLANS if plan.name != MIXED}
    kept = [index for index, name in enumerate(names) if name not in replaced]
    given = [index for index in kept if names[index] != MIXED]
    return [index for index in kept if index not in given[1:]]


def _same_inputs(left: InputCase, right: InputCase) -> bool:
    """Whether two cases test the same thing: equal sizes and equal masks."""
    return all(
        array.shape == right.inputs[name].shape and np.array_equal(array, right.inputs[name])
        for name, array in left.inputs.items()
    )


class _Generator:
    """Draws the inputs of one case."""

    def __init__(self, module: Module, roles: Sequence[InputRole], plan: _Plan) -> None:
        self._roles = roles
        self._plan = plan
        self._random = np.random.default_rng(_SEED)
        self._sizes = _assign_sizes(module, roles, plan)

    def case(self) -> InputCase:
        arrays = {role.value.name or "": self._draw(role) for role in self._roles}
        return InputCase(self._plan.name, arrays)

    def _draw(self, role: InputRole) -> Array:
        value, shape = role.value, self._shape(role.value)
        dtype = (value.dtype or ir.DataType.FLOAT).numpy()
        if role.role is Role.MASK:
            return self._mask(shape).astype(dtype)
        if role.role is Role.LENGTHS:
            return np.asarray(self._mask((shape[0], self._longest())).sum(axis=1), dtype=dtype)
        if role.role is Role.IDS:
            return self._ids(role, shape).astype(dtype)
        if dtype.kind in "biu":
            return self._random.integers(0, 2, shape).astype(dtype)
        numbers = np.asarray(self._random.standard_normal(shape))
        if self._plan.extreme and numbers.ndim:
            scales = np.resize(_EXTREME_SCALES, len(numbers))
            numbers = numbers * scales.reshape(-1, *(1,) * (numbers.ndim - 1))
        return numbers.astype(dtype)

    def _ids(self, role: InputRole, shape: tuple[int, ...]) -> Array:
        ids = self._random.integers(0, role.num_ids, shape)
        if self._plan.extreme:  # the table's ends alone, and rows of one id
            ids = np.where(ids % 2 == 0, 0, role.num_ids - 1)
            ids[:1] = 0
        ids.reshape(-1)[:1], ids.reshape(-1)[-1:] = 0, role.num_ids - 1  # the table's two ends
        if role.padding_id is None or len(shape) != 2:
            return ids
        # The graph finds padding by this id: it must stand there, and nowhere else.
        other = (role.padding_id + 1) % role.num_ids
        ids = np.where(ids == role.padding_id, other, ids)
        return np.where(self._mask(shape) != 0, ids, role.padding_id)

    def _mask(self, shape: tuple[int, ...]) -> Array:
        """Ones where there is a token; the last axis is the sequence, the first the batch."""
        keep = _padding_mask(self._plan.padding, shape[0], shape[-1])
        middle = (1,) * (len(shape) - 2)
        return np.broadcast_to(keep.reshape(shape[0], *middle, shape[-1]), shape).copy()

    def _longest(self) -> int:
        """Length of the sequence axis of the case."""
        for role in self._roles:
            shape = self._shape(role.value)
            if len(shape) >= 2:
                return shape[1]
        return self._plan.sequence

    def _shape(self, value: ir.Value) -> tuple[int, ...]:
        if value.shape is None:
            return ()
        return tuple(
            _size_of(dim, axis, len(value.shape), self._sizes, self._plan)
            for axis, dim in enumerate(value.shape)
        )


def _padding_mask(padding: str, batch: int, sequence: int) -> Array:
    """int64[batch, sequence]; lengths are spread over 1..sequence, the longest first."""
    lengths = np.linspace(sequence, 1, batch).round().astype(np.int64)
    if batch == 1 and padding != "none":
        lengths = np.array([(sequence + 1) // 2])
    positions = np.arange(sequence)
    if padding == "right":
        keep = positions < lengths[:, None]
    elif padding == "left":
        keep = positions >= sequence - lengths[:, None]
    elif padding == "interleaved":
        keep = (positions + np.arange(batch)[:, None]) % 3 != 1
    elif padding == "empty row":
        keep = positions < np.where(np.arange(batch) == batch // 2, 0, lengths)[:, None]
    elif padding == "mixed":
        return np.stack([_mixed_row(row, sequence) for row in range(batch)])
    else:
        keep = np.ones((batch, sequence), dtype=bool)
    return keep.astype(np.int64)


def _mixed_row(row: int, sequence: int) -> Array:
    """int64[sequence]; each row is padded in the next way, and half of it where it has an end."""
    way, positions = _WAYS[row % len(_WAYS)], np.arange(sequence)
    half = (sequence + 1) // 2
    keep: dict[str, Array] = {
        "none": positions >= 0,
        "right": positions < half,
        "left": positions >= sequence - half,
        "interleaved": positions % 3 != 1,
        "empty": positions < 0,
    }
    return keep[way].astype(np.int64)


def _assign_sizes(module: Module, roles: Sequence[InputRole], plan: _Plan) -> dict[str, int]:
    """A size for each named dimension of the inputs, inside its range."""
    sizes: dict[str, int] = {}
    ordered = sorted(roles, key=lambda role: role.role is Role.DATA)  # ids and masks name the axes
    for role in ordered:
        for axis, dim in enumerate(role.value.shape or ()):
            if isinstance(dim, int) or dim.value is None or not dim.value.isidentifier():
                continue
            wanted = _wanted_size(axis, len(role.value.shape or ()), plan)
            sizes.setdefault(dim.value, _into_range(module, dim.value, wanted))
    return sizes


def _wanted_size(axis: int, rank: int, plan: _Plan) -> int:
    if axis == 0:
        return plan.batch
    return plan.sequence if axis == 1 and rank <= 3 else _OTHER


def _into_range(module: Module, name: str, wanted: int) -> int:
    allowed = module.symbols.get(name)
    if allowed is None:
        return wanted
    most = wanted if allowed.maximum is None else min(wanted, allowed.maximum)
    return max(most, allowed.minimum)


def _size_of(
    dim: int | ir.SymbolicDim, axis: int, rank: int, sizes: Mapping[str, int], plan: _Plan
) -> int:
    if isinstance(dim, int):
        return dim
    if dim.value is not None and dim.value in sizes:
        return sizes[dim.value]
    expressions = shape_expressions(ir.Value(name="size", shape=ir.Shape([dim])))
    if expressions is None:
        return _wanted_size(axis, rank, plan)
    known = {symbol(name): size for name, size in sizes.items()}
    size = expressions[0].subs(known)
    return int(size) if size.is_Integer else _wanted_size(axis, rank, plan)
