"""What runs a module: ONNX Runtime on CPU."""

from .onnxruntime import (
    TARGETS,
    AttentionKernel,
    AttentionSizes,
    RunOverdueError,
    Session,
    SessionSettings,
    attention_sizes,
    lower,
    machine_name,
    time_attention,
)

__all__ = [
    "TARGETS",
    "AttentionKernel",
    "AttentionSizes",
    "RunOverdueError",
    "Session",
    "SessionSettings",
    "attention_sizes",
    "lower",
    "machine_name",
    "time_attention",
]
