"""What runs a module: ONNX Runtime or OpenVINO, on CPU."""

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
from .openvino import OpenVinoSession, has_openvino
from .running import RunningModel, runs_in_openvino, start_session

__all__ = [
    "TARGETS",
    "AttentionKernel",
    "AttentionSizes",
    "OpenVinoSession",
    "RunOverdueError",
    "RunningModel",
    "Session",
    "SessionSettings",
    "attention_sizes",
    "has_openvino",
    "lower",
    "machine_name",
    "runs_in_openvino",
    "start_session",
    "time_attention",
]
