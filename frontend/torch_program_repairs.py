"""What a torch model is made to look like while it is exported; all is as before afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram

_EXPERTS = "_experts_implementation"
_STANDARD_EXPERTS = "batched_mm"
"""Mixtures of experts as batched products; transformers' default is an operator of its own."""


@contextlib.contextmanager
def experts_in_standard_operators(module: torch.nn.Module) -> Iterator[None]:
    """Let the mixtures of experts of transformers' models compute with standard operators."""
    configs = {id(c): c for part in module.modules() if (c := getattr(part, "config", None))}
    before: list[tuple[Any, Any]] = []
    for config in configs.values():
        if getattr(config, _EXPERTS, None) not in (None, "eager"):
            before.append((config, getattr(config, _EXPERTS)))
            setattr(config, _EXPERTS, _STANDARD_EXPERTS)
    try:
        yield
    finally:
        for config, chosen in before:
            setattr(config, _EXPERTS, chosen)


@contextlib.contextmanager
def grouped_heads_declared(program: ExportedProgram) -> Iterator[None]:
    """Say of attention whose keys have fewer heads than its queries that it is grouped.

    torch broadcasts a single head without being told; its exporter wants the number of heads equal
    or the attention declared.
    """
    attentions = [node for node in program.graph.nodes if _broadcasts_heads(node)]
    before = [node.kwargs for node in attentions]
    for node in attentions:
        node.kwargs = {**node.kwargs, "enable_gqa": True}
    try:
        yield
    finally:
        for node, kwargs in zip(attentions, before, strict=True):
            node.kwargs = kwargs


def _broadcasts_heads(node: torch.fx.Node) -> bool:
    if node.target is not torch.ops.aten.scaled_dot_product_attention.default:
        return False
    values = [arg.meta.get("val") for arg in node.args[:3] if isinstance(arg, torch.fx.Node)]
    if len(values) != 3 or any(value is None or value.dim() != 4 for value in values):
        return False
    query, key, value = (tensor.shape[1] for tensor in values if tensor is not None)
    return bool(query != 1 and key == 1 and value == 1)
