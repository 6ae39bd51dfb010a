"""IR to ONNX Runtime on CPU: kernels that the installed runtime has, lowering, sessions."""

from .attention_timing import AttentionSizes, attention_sizes, time_attention
from .kernels import has_kernel
from .lowering import RUNTIME_KEY, TARGETS, lower
from .processor import machine_name
from .session import RunOverdueError, Session
from .session_settings import SessionSettings
from .varlen_attention import AttentionKernel

__all__ = [
    "RUNTIME_KEY",
    "TARGETS",
    "AttentionKernel",
    "AttentionSizes",
    "RunOverdueError",
    "Session",
    "SessionSettings",
    "attention_sizes",
    "has_kernel",
    "lower",
    "machine_name",
    "time_attention",
]
