"""What runs a module: ONNX Runtime or OpenVINO, on CPU."""

from .onnxruntime import (
    TARGETS,
    AttentionKernel,
    AttentionSizes,
    LowBitKernel,
    RunOverdueError,
    Session,
    SessionSettings,
    attention_sizes,
    low_bit_kernels,
    lower,
    machine_name,
    products_saturate,
    time_attention,
)
from .openvino import OpenVinoSession, has_openvino
from .running import RunningModel, runs_in_openvino, start_session

__all__ = [
    "TARGETS",
    "AttentionKernel",
    "AttentionSizes",
    "LowBitKernel",
    "OpenVinoSession",
    "RunOverdueError",
    "RunningModel",
    "Session",
    "SessionSettings",
    "attention_sizes",
    "has_openvino",
    "low_bit_kernels",
    "lower",
    "machine_name",
    "products_saturate",
    "runs_in_openvino",
    "start_session",
    "time_attention",
]
