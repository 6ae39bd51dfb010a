"""IR to OpenVINO on CPU: attention in groups of rows, sessions."""

from .grouped_attention import lower_to_grouped_attention
from .session import OpenVinoSession, has_openvino
from .shared_rows import SharedRows

__all__ = ["OpenVinoSession", "SharedRows", "has_openvino", "lower_to_grouped_attention"]
