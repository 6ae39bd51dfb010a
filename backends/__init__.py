"""What runs a module: ONNX Runtime on CPU."""

from .onnxruntime import (
    TARGETS,
    AttentionKernel,
    AttentionSizes,
    LowBitKernel,
    Session,
    SessionSettings,
    attention_sizes,
    low_bit_kernels,
    lower,
    machine_name,
    products_saturate,
    time_attention,
)

__all__ = [
    "TARGETS",
    "AttentionKernel",
    "AttentionSizes",
    "LowBitKernel",
    "Session",
    "SessionSettings",
    "attention_sizes",
    "low_bit_kernels",
    "lower",
    "machine_name",
    "products_saturate",
    "time_attention",
]
