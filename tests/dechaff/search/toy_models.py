"""A classifier of four blocks, of which some matter and some do not, and data for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dechaff.ir import Module, stamp_origins
from tests.passes.rewrite_checks import module_from

WIDTH, INNER = 8, 16


def block(number: int, source: str, scale: float) -> tuple[str, str]:
    """Text of the weights and of the nodes of one feed-forward block."""
    generator = np.random.default_rng(number)

    def text(*shape: int) -> str:
        values = scale * generator.standard_normal(shape).reshape(-1)
        return "{" + ", ".join(f"{value:.5f}" for value in values) + "}"

    weights = (
        f"float[{WIDTH},{INNER}] up{number} = {text(WIDTH, INNER)}, "
        f"float[{INNER},{WIDTH}] down{number} = {text(INNER, WIDTH)}"
    )
    nodes = f"""
    wide{number} = MatMul ({source}, up{number})
    active{number} = Relu (wide{number})
    narrow{number} = MatMul (active{number}, down{number})
    sum{number} = Add (narrow{number}, {source})
    """
    return weights, nodes


def classifier(scales: tuple[float, ...] = (0.5, 0.01, 0.5, 0.01)) -> Module:
    """``x + f(x)`` four times, then two logits; blocks of small scale do next to nothing."""
    parts = [
        block(number, "x" if number == 0 else f"sum{number - 1}", scale)
        for number, scale in enumerate(scales)
    ]
    generator = np.random.default_rng(99)
    head = ", ".join(f"{value:.5f}" for value in generator.standard_normal(2 * WIDTH))
    module = module_from(
        f"toy (float[B,{WIDTH}] x) => (float[B,2] logits)\n"
        f"<{', '.join(weights for weights, _ in parts)}, float[{WIDTH},2] head = {{{head}}}>\n"
        f"{{{''.join(nodes for _, nodes in parts)}\n logits = MatMul (sum{len(scales) - 1}, head)}}"
    )
    stamp_origins(module.graph)
    return module


def batches(module: Module, count: int = 9, rows: int = 64) -> list[dict[str, Any]]:
    """Inputs with the labels that the module gives them, some of them wrong."""
    from tests.model_runner import run_module

    generator = np.random.default_rng(5)
    made: list[dict[str, Any]] = []
    for _ in range(count):
        x = generator.standard_normal((rows, WIDTH)).astype(np.float32)
        labels = run_module(module, {"x": x})["logits"].argmax(axis=1)
        wrong = generator.random(rows) < 0.05
        made.append({"x": x, "labels": np.where(wrong, 1 - labels, labels)})
    return made
