"""What runs a module: ONNX Runtime on CPU."""

from .onnxruntime import TARGETS, Session, lower

__all__ = ["TARGETS", "Session", "lower"]
