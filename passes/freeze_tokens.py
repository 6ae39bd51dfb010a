"""The pass ``freeze-tokens``: from some layer on, only the token that is read goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, constant_value

from .approximation import Approximation, Calibration, Edit
from .fuse_bias_gelu import dense_and_bias
from .matching import is_op, only_consumer, same_dim
from .part_removal import path_to_dense
from .pass_context import PassContext
from .reconstruction import damping
from .rewriter import GraphBuilder, Rewriter
from .skip_unread_rows import SkipUnreadRows
from .token_rows import Floats, token_rows

_RULE = "freeze-tokens"


@dataclasses.dataclass(frozen=True)
class FreezeTokensOptions:
    """Options of ``freeze-tokens``.

    Attributes:
        after: behind how many layers tokens stand still; 0: never.
        reconstruct: fit the keys and values of later layers, by least squares on calibration data,
            which it then needs, to those that they would have without.
    """

    after: int = 0
    reconstruct: bool = False

    def __post_init__(self) -> None:
        if self.after < 0:
            raise ValueError(f"after counts layers, got {self.after}")


class FreezeTokens(Approximation):
    """Let later layers take keys and values from the states behind layer ``after``.

    Where a head reads one token of each sequence, as classifiers and poolers do, nothing then
    reads the other tokens of later layers, and ``skip-unread-rows`` takes them out: a later layer
    costs two of its twelve products, and one token. The token that is read goes through all
    layers. This is what CaiT's class-attention layers compute (ICCV 2021, section 3.2), with a
    model that was trained otherwise: in MiniLM-L6 for SST-2 the last two layers may be such at no
    loss, where their keys and values are fitted to what they were. Models that read all tokens
    become no faster, and no edits are proposed for them. Exits lie before layer ``after`` or at it.

    Before, for ``freeze-tokens{after=1}``::

        before (float[B,S,4] x) => (float[B,4] y)
            <float[4,4] wq = {...}, float[4,4] wk = {...}, int64 first = {0},
             float[4,4] wv = {0.1, 0, 0, 0, 0, 0.2, 0, 0, 0, 0, 0.3, 0, 0, 0, 0, 0.4}>
        {
            q1 = MatMul (x, wq)
            k1 = MatMul (x, wk)
            v1 = MatMul (x, wv)
            c1 = Attention <q_num_heads = 2, kv_num_heads = 2> (q1, k1, v1)
            h1 = Add (c1, x)
            q2 = MatMul (h1, wq)
            k2 = MatMul (h1, wk)
            v2 = MatMul (h1, wv)
            c2 = Attention <q_num_heads = 2, kv_num_heads = 2> (q2, k2, v2)
            h2 = Add (c2, h1)
            q3 = MatMul (h2, wq)
            k3 = MatMul (h2, wk)
            v3 = MatMul (h2, wv)
            c3 = Attention <q_num_heads = 2, kv_num_heads = 2> (q3, k3, v3)
            h3 = Add (c3, h2)
            y = Gather <axis = 1> (h3, first)
        }

    After::

        after (float[B,S,4] x) => (float[B,4] y)
            <float[4,4] wq = {...}, float[4,4] wk = {...}, int64 first = {0},
             float[4,4] wv = {0.1, 0, 0, 0, 0, 0.2, 0, 0, 0, 0, 0.3, 0, 0, 0, 0, 0.4}>
        {
            q1 = MatMul (x, wq)
            k1 = MatMul (x, wk)
            v1 = MatMul (x, wv)
            c1 = Attention <q_num_heads = 2, kv_num_heads = 2> (q1, k1, v1)
            h1 = Add (c1, x)
            q2 = MatMul (h1, wq)
            k2 = MatMul (h1, wk)
            v2 = MatMul (h1, wv)
            c2 = Attention <q_num_heads = 2, kv_num_heads = 2> (q2, k2, v2)
            h2 = Add (c2, h1)
            q3 = MatMul (h2, wq)
            k3 = MatMul (h1, wk)
            v3 = MatMul (h1, wv)
            c3 = Attention <q_num_heads = 2, kv_num_heads = 2> (q3, k3, v3)
            h3 = Add (c3, h2)
            y = Gather <axis = 1> (h3, first)
        }
    """

    name = "freeze-tokens"
    after = ("canonicalize", "fold-constants", "fuse-attention")
    options_type = FreezeTokensOptions
    levels = ("layers",)

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Let the attentions behind layer ``after`` read keys and values where it does."""
        if self.is_idle:
            return
        layers = _layers(module, rewriter)
        if self.options.after >= len(layers):
            rewriter.note(f"{self.name}: there are {len(layers)} layers that could stand still")
            return
        first, *later = layers[self.options.after :]
        fits: list[Floats | None] = [None] * len(later)
        if self.options.reconstruct and later:
            fits = _fits(module, first, later, rewriter.context)
        for layer, fit in zip(later, fits, strict=True):
            _read_other_state(layer, first.source, fit, rewriter)

    @property
    def saves(self) -> frozenset[str]:
        """Time alone."""
        return frozenset(["time"])

    @property
    def is_idle(self) -> bool:
        """Whether no token stands still."""
        return bool(self.options.after == 0)

    def edits(self, module: Module, calibration: Calibration) -> Sequence[Edit]:
        """The layers behind which tokens may stand still, the first of them first."""
        if not _is_read_at_one_token(module):
            return []
        count = len(_layers(module, Rewriter(module)))
        return [_freeze(after) for after in range(1, count - 1)]


def _freeze(after: int) -> Edit:
    def change(options: FreezeTokensOptions) -> FreezeTokensOptions:
        return dataclasses.replace(options, after=after, reconstruct=True)

    return Edit(f"after layer {after}", 0, change, "all layers", "tokens")


def _is_read_at_one_token(module: Module) -> bool:
    trial = Rewriter(module.clone())
    SkipUnreadRows().apply(trial.module, trial)
    return bool(trial.rewrites)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A self-attention: the state that it reads, and the products that make keys and values."""

    attention: ir.Node
    source: ir.Value
    products: tuple[ir.Node, ...]


def _layers(module: Module, rewriter: Rewriter) -> list[_Layer]:
    """Self-attentions over states of one shape, in order."""
    layers: list[_Layer] = []
    for node in module.graph:
        if not is_op(node, "Attention"):
            continue
        layer = _layer(node)
        if isinstance(layer, str):
            rewriter.miss(_RULE, node, layer)
        elif not layers or _same_shape(layers[0].source, layer.source):
            layers.append(layer)
    return layers


def _layer(attention: ir.Node) -> _Layer | str:
    paths = [path_to_dense(value) for value in attention.inputs[:3]]
    if len(attention.outputs) > 1 or len(attention.inputs) > 4:
        return "it has a cache of keys and values, or more than one output"
    query, key, value = (path[0] if path else None for path in paths)
    if query is None or key is None or value is None:
        return "its query, key or value does not come from one product with a constant matrix"
    if query in (key, value):
        return "its query and key come from one product"
    source = query.inputs[0]
    if source is None or any(product.inputs[0] is not source for product in (key, value)):
        return "its keys are not those of the tokens that ask"
    return _Layer(attention, source, tuple(dict.fromkeys((key, value))))


def _same_shape(left: ir.Value, right: ir.Value) -> bool:
    if left.shape is None or right.shape is None or len(left.shape) != len(right.shape):
        return False
    return all(same_dim(a, b) for a, b in zip(left.shape, right.shape, strict=True))


def _fits(
    module: Module, first: _Layer, later: Sequence[_Layer], context: PassContext
) -> list[Floats | None]:
    """For each later layer, the map from the state that it reads to the one it would have read.

    float64[width + 1, width], the last row added. Without much data it leaves the state as it is.
    """
    data = context.calibration_for("freeze-tokens{reconstruct=true}")
    names = [layer.source.name for layer in later]

    def solve() -> list[Floats | None]:
        sources = [first.source, *(layer.source for layer in later)]
        sums: list[Floats] = [np.zeros(())] * len(sources)
        for rows in token_rows(module, sources, data):
            own = rows[first.source].T
            sums = [total + own @ rows[value] for total, value in zip(sums, sources, strict=True)]
        if not sums[0].shape:
            return [None] * len(later)
        more = np.diag(damping(sums[0].astype(np.float64)))
        moments = sums[0] + more
        return [np.linalg.solve(moments, (total + more)[:, :-1]) for total in sums[1:]]

    return context.once(f"{first.source.name} to {names}", solve)


def _read_other_state(
    layer: _Layer, state: ir.Value, fit: Floats | None, rewriter: Rewriter
) -> None:
    for product in layer.products:
        with rewriter.rewrite(_RULE, [product]) as builder:
            weight, shift = _fitted(product, fit, builder)
            made = builder.op("MatMul", [state, weight])
            if shift is None:
                builder.replace(product.outputs[0], made)
            else:
                _add(made, shift, product, builder)


def _add(made: ir.Value, shift: Floats, product: ir.Node, builder: GraphBuilder) -> None:
    """The product that was made and a vector, in the place of the old one; its bias takes it up."""
    addition = only_consumer(product.outputs[0])
    if addition is not None and is_op(addition, "Add"):
        biased = dense_and_bias(addition)
        bias = constant_value(biased[1]) if biased is not None else None
        if biased is not None and bias is not None and biased[0] is product.outputs[0]:
            moved = builder.constant((bias.numpy() + shift).astype(shift.dtype), "bias_fitted")
            builder.replace(addition.outputs[0], builder.op("Add", [made, moved]))
            return
    added = builder.op("Add", [made, builder.constant(shift, "shift")])
    builder.replace(product.outputs[0], added)


def _fitted(
    product: ir.Node, fit: Floats | None, builder: GraphBuilder
) -> tuple[ir.Value, Floats | None]:
    """The matrix that a product of another state takes, and what is added to the product."""
    weight = product.inputs[1]
    tensor = constant_value(weight)
    assert weight is not None
    assert tensor is not None  # it is a dense product
    if fit is None:
        return weight, None
    dtype = tensor.dtype.numpy()
    found = fit @ tensor.numpy().astype(np.float64)
    return builder.constant(found[:-1].astype(dtype), "weight_fitted"), found[-1].astype(dtype)
