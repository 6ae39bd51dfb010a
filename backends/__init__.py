"""What runs a module: ONNX Runtime on CPU."""

from .onnxruntime import TARGETS, Session, SessionSettings, lower

__all__ = ["TARGETS", "Session", "SessionSettings", "lower"]
