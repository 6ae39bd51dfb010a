"""Which operator is lowered how: one table for the standard operators, one for the dialect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from tvm import relax

from . import attention_emitters as attention
from . import elementwise_emitters as elementwise
from . import indexing_emitters as indexing
from . import packing_emitters as packing
from . import product_emitters as products
from . import reduction_emitters as reductions
from . import shape_emitters as shapes
from .elementwise_emitters import in_float32, unary, variadic
from .emission import Emission, Expr

Emitter = Callable[[Emission, ir.Node], Expr | Sequence[Expr]]
"""Emits a node, and gives the expression of each of its outputs; raises ``LoweringError``."""

_op = relax.op

STANDARD: dict[str, Emitter] = {
    "Abs": unary(_op.abs),
    "Add": variadic(_op.add),
    "And": variadic(_op.logical_and),
    "ArgMax": indexing.emit_arg_max,
    "ArgMin": indexing.emit_arg_min,
    "Attention": attention.emit_attention,
    "AveragePool": products.emit_average_pool,
    "BitwiseAnd": variadic(_op.bitwise_and),
    "BitwiseNot": unary(_op.bitwise_not),
    "BitwiseOr": variadic(_op.bitwise_or),
    "Cast": elementwise.emit_cast,
    "CastLike": elementwise.emit_cast_like,
    "Ceil": unary(_op.ceil),
    "Clip": elementwise.emit_clip,
    "Concat": shapes.emit_concat,
    "ConstantOfShape": shapes.emit_constant_of_shape,
    "Conv": products.emit_conv,
    "Cos": in_float32(_op.cos),
    "CumSum": indexing.emit_cum_sum,
    "Div": variadic(_op.divide),
    "Dropout": elementwise.emit_identity,
    "Einsum": products.emit_einsum,
    "Equal": elementwise.emit_equal,
    "Erf": in_float32(_op.erf),
    "Exp": in_float32(_op.exp),
    "Expand": shapes.emit_expand,
    "Flatten": shapes.emit_reshape,
    "Floor": unary(_op.floor),
    "Gather": indexing.emit_gather,
    "GatherElements": indexing.emit_gather_elements,
    "GatherND": indexing.emit_gather_nd,
    "Gelu": elementwise.emit_gelu,
    "Gemm": products.emit_gemm,
    "Greater": variadic(_op.greater),
    "GreaterOrEqual": variadic(_op.greater_equal),
    "Identity": elementwise.emit_identity,
    "IsNaN": elementwise.emit_is_nan,
    "LayerNormalization": reductions.emit_layer_normalization,
    "LeakyRelu": elementwise.emit_leaky_relu,
    "Less": variadic(_op.less),
    "LessOrEqual": variadic(_op.less_equal),
    "Log": in_float32(_op.log),
    "LogSoftmax": reductions.emit_log_softmax,
    "MatMul": products.emit_mat_mul,
    "Max": variadic(_op.maximum),
    "MaxPool": products.emit_max_pool,
    "Min": variadic(_op.minimum),
    "Mod": elementwise.emit_mod,
    "Mul": variadic(_op.multiply),
    "Neg": unary(_op.negative),
    "NonZero": indexing.emit_non_zero,
    "Not": unary(_op.logical_not),
    "Or": variadic(_op.logical_or),
    "Pad": shapes.emit_pad,
    "Pow": elementwise.emit_pow,
    "RMSNormalization": reductions.emit_rms_normalization,
    "Range": shapes.emit_range,
    "Reciprocal": unary(lambda x: _op.divide(_op.ones_like(x), x)),
    "ReduceL2": reductions.reduction(reductions.euclidean_norm),
    "ReduceMax": reductions.reduction(_op.max),
    "ReduceMean": reductions.reduction(_op.mean),
    "ReduceMin": reductions.reduction(_op.min),
    "ReduceProd": reductions.reduction(_op.prod),
    "ReduceSum": reductions.reduction(_op.sum),
    "ReduceSumSquare": reductions.reduction(reductions.sum_of_squares),
    "Relu": unary(_op.nn.relu),
    "Reshape": shapes.emit_reshape,
    "RotaryEmbedding": attention.emit_rotary_embedding,
    "Round": unary(_op.round),
    "ScatterElements": indexing.emit_scatter_elements,
    "ScatterND": indexing.emit_scatter_nd,
    "Sigmoid": in_float32(_op.sigmoid),
    "Sign": unary(_op.sign),
    "Sin": in_float32(_op.sin),
    "Slice": shapes.emit_slice,
    "Softmax": reductions.emit_softmax,
    "Softplus": in_float32(_op.nn.softplus),
    "Split": shapes.emit_split,
    "Sqrt": unary(_op.sqrt),
    "Squeeze": shapes.emit_squeeze,
    "Sub": variadic(_op.subtract),
    "Sum": variadic(_op.add),
    "Tanh": in_float32(_op.tanh),
    "Tile": shapes.emit_tile,
    "TopK": indexing.emit_top_k,
    "Transpose": shapes.emit_transpose,
    "Trilu": shapes.emit_trilu,
    "Unsqueeze": shapes.emit_unsqueeze,
    "Where": elementwise.emit_where,
    "Xor": variadic(_op.logical_xor),
}
"""Standard ONNX operators. ``Shape``, ``Size`` and ``Constant`` need no row: see ``Emission``."""

DIALECT: dict[str, Emitter] = {
    "BiasGelu": elementwise.emit_bias_gelu,
    "BiasSkipLayerNormalization": reductions.emit_skip_layer_normalization,
    "Pack": packing.emit_pack,
    "SkipLayerNormalization": reductions.emit_skip_layer_normalization,
    "SkipRMSNormalization": reductions.emit_skip_rms_normalization,
    "TokenLayout": packing.emit_token_layout,
    "Unpack": packing.emit_unpack,
    "VarlenAttention": attention.emit_varlen_attention,
}
"""Operators of the dialect. One without a row is replaced by its reference function."""

SIZES_ONLY = ("Constant", "Shape", "Size")
"""Operators whose results are known before run time: values are made where they are read."""
