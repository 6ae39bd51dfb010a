"""Which operations work on each token alone: one table, operator -> rule."""

from __future__ import annotations

from .dense_rules import (
    AffineProduct,
    AlongFeatureAxis,
    FeatureReduction,
    Lookup,
    MatrixProduct,
    Normalization,
)
from .elementwise_rules import Elementwise
from .feature_axis_rules import FeatureExpand, FeaturePick, FeatureSqueeze, FeatureUnsqueeze
from .rotary_rule import Rotary
from .shape_rules import AxesPermutation, FeatureReshape, FeatureSlice
from .token_rule import TokenRule

_ELEMENTWISE = Elementwise()
_UNARY_AND_BROADCAST = """
    Abs Add And Cast CastLike Ceil Clip Cos Div Dropout Elu Equal Erf Exp Floor Gelu Greater
    GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max
    Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Sin
    Softplus Softsign Sqrt Sub Sum Swish Tanh ThresholdedRelu Where Xor
"""
ELEMENTWISE = frozenset(_UNARY_AND_BROADCAST.split())
"""Standard operators whose result entries depend on the operands' entries at the same place."""

TOKEN_RULES: dict[str, TokenRule] = {
    **dict.fromkeys(ELEMENTWISE, _ELEMENTWISE),
    "MatMul": MatrixProduct(),
    "Gemm": AffineProduct(),
    "LayerNormalization": Normalization(),
    "RMSNormalization": Normalization(),
    "Softmax": AlongFeatureAxis(-1),
    "LogSoftmax": AlongFeatureAxis(-1),
    "Concat": AlongFeatureAxis(0),
    "Split": AlongFeatureAxis(0),
    "ReduceL2": FeatureReduction(),
    "ReduceMax": FeatureReduction(),
    "ReduceMean": FeatureReduction(),
    "ReduceMin": FeatureReduction(),
    "ReduceSum": FeatureReduction(),
    "ReduceSumSquare": FeatureReduction(),
    "Expand": FeatureExpand(),
    "Reshape": FeatureReshape(),
    "RotaryEmbedding": Rotary(),
    "Squeeze": FeatureSqueeze(),
    "Transpose": AxesPermutation(),
    "Slice": FeatureSlice(),
    "Gather": Lookup(of_tokens=FeaturePick()),
    "Unsqueeze": FeatureUnsqueeze(),
}
"""Standard operators that may work on each token alone, with the rule that decides."""
