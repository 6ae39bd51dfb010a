"""What runs a module: ONNX Runtime on CPU."""

from .onnxruntime import (
    TARGETS,
    AttentionKernel,
    AttentionSizes,
    Session,
    attention_sizes,
    lower,
    machine_name,
    time_attention,
    usable_cores,
)

__all__ = [
    "TARGETS",
    "AttentionKernel",
    "AttentionSizes",
    "Session",
    "attention_sizes",
    "lower",
    "machine_name",
    "time_attention",
    "usable_cores",
]
