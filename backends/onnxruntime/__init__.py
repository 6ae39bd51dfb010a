"""IR to ONNX Runtime on CPU: kernels that the installed runtime has, lowering, sessions."""

from .attention_timing import AttentionSizes, attention_sizes, time_attention
from .kernels import has_kernel
from .low_bit_kernels import LowBitKernel, low_bit_kernels
from .lowering import INDEPENDENT, ROWS_KEY, RUNTIME_KEY, TARGETS, lower
from .processor import machine_name, products_saturate
from .session import RunOverdueError, Session
from .session_settings import SessionSettings
from .varlen_attention import AttentionKernel

__all__ = [
    "INDEPENDENT",
    "ROWS_KEY",
    "RUNTIME_KEY",
    "TARGETS",
    "AttentionKernel",
    "AttentionSizes",
    "LowBitKernel",
    "RunOverdueError",
    "Session",
    "SessionSettings",
    "attention_sizes",
    "has_kernel",
    "low_bit_kernels",
    "lower",
    "machine_name",
    "products_saturate",
    "time_attention",
]
