"""What runs a module: ONNX Runtime on CPU."""

from .onnxruntime import (
    TARGETS,
    AttentionKernel,
    AttentionSizes,
    Session,
    SessionSettings,
    attention_sizes,
    lower,
    machine_name,
    products_saturate,
    time_attention,
)

__all__ = [
    "TARGETS",
    "AttentionKernel",
    "AttentionSizes",
    "Session",
    "SessionSettings",
    "attention_sizes",
    "lower",
    "machine_name",
    "products_saturate",
    "time_attention",
]
