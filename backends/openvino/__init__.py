"""IR to OpenVINO on CPU: attention in groups of rows, sessions."""

from .grouped_attention import lower_to_grouped_attention
from .session import OpenVinoSession, has_openvino

__all__ = ["OpenVinoSession", "has_openvino", "lower_to_grouped_attention"]
