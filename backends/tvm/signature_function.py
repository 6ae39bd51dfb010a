"""A function beside the model's own that gives its signature: a library describes itself."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .signature import Signature

SIGNATURE_FUNCTION = "dechaff_signature"


def add_signature(module: Any, signature: Signature) -> None:
    """Add a function without arguments that gives the signature's JSON as uint8[n]."""
    builder = relax.BlockBuilder()
    with builder.function(SIGNATURE_FUNCTION, []):
        builder.emit_func_output(relax.const(signature.to_bytes(), "uint8"))
    module[SIGNATURE_FUNCTION] = builder.finalize()[SIGNATURE_FUNCTION]
