"""IR to ONNX Runtime on CPU: kernels that the installed runtime has, lowering, sessions."""

from .kernels import has_kernel
from .lowering import TARGETS, lower
from .session import Session
from .session_settings import SessionSettings

__all__ = ["TARGETS", "Session", "SessionSettings", "has_kernel", "lower"]
