from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from dechaff.backends import OpenVinoSession, Session, lower
from dechaff.ir import Module
from tests.passes.rewrite_checks import module_from

ATTENTION = """
    g (float[T,8] x, float[T,{k_width}] u, float[T,{k_width}] v, int64[N] starts, int64[K] keys,
       int64[N] key_starts) => (float[T,8] y)
    <float q_scale = {{0.03}}, float k_scale = {{0.02}}, {zero_type} zero = {{{zero}}}>
    {{
        q_integers = QuantizeLinear (x, q_scale, zero)
        q = DequantizeLinear (q_integers, q_scale, zero)
        k_integers = QuantizeLinear (u, k_scale, zero)
        k = DequantizeLinear (k_integers, k_scale, zero)
        y = dechaff.VarlenAttention
            <q_num_heads = 2, kv_num_heads = {kv_heads}, scale = 0.4, is_causal = {causal}>
            (q, k, v, starts, keys, key_starts)
    }}"""
UNROUNDED = 0.03
"""What rounding moves a query by, at most half of it."""
ROUNDED = {"k_width": 8, "zero_type": "int8", "zero": 0, "kv_heads": 2, "causal": 0}


def rounded_attention(**changes: object) -> Module:
    return module_from(ATTENTION.format(**{**ROUNDED, **changes}))


def tokens(lengths: list[int], key_lengths: list[int]) -> dict[str, Any]:
    starts = list(itertools.accumulate(lengths, initial=0))
    listed = [s + i for s, n in zip(starts, key_lengths, strict=False) for i in range(n)]
    generator = np.random.default_rng(0)
    floats = {name: generator.standard_normal((starts[-1], 8)) for name in ("x", "u", "v")}
    return {
        **{name: array.astype(np.float32) for name, array in floats.items()},
        "starts": np.array(starts),
        "keys": np.array(listed, np.int64),
        "key_starts": np.array(list(itertools.accumulate(key_lengths, initial=0))),
    }


def kinds(module: Module) -> list[str]:
    return [node.op_type for node in module.graph]


MODULE = rounded_attention()
LOWERED = lower(MODULE, "openvino")
IN_OPENVINO = OpenVinoSession(LOWERED)


@pytest.mark.parametrize(
    ("lengths", "key_lengths"),
    [
        ([4], [4]),
        ([1], [1]),
        ([2, 2, 2], [2, 2, 2]),
        ([3, 1, 0, 5], [3, 1, 0, 5]),
        ([3, 1, 0, 5], [1, 1, 0, 4]),
        ([5] * 9 + [1], [5] * 9 + [1]),
        ([0, 0], [0, 0]),
    ],
)
def test_attention_of_rounded_queries_and_keys_agrees_with_the_reference(
    lengths: list[int], key_lengths: list[int]
) -> None:
    given = tokens(lengths, key_lengths)
    expected = Session(MODULE, graph_optimizations=False).run(given)["y"]
    np.testing.assert_allclose(IN_OPENVINO.run(given)["y"], expected, rtol=1e-4, atol=1e-5)
    if sum(lengths):
        found = Session(LOWERED).run(given)["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_no_row_depends_on_its_batch_mates() -> None:
    given = tokens([3, 2, 7], [3, 2, 7])
    crowd = {name: array.copy() for name, array in given.items()}
    for name in ("x", "u", "v"):
        crowd[name][3:] *= 100
    alone, together = (IN_OPENVINO.run(batch)["y"][:3] for batch in (given, crowd))
    np.testing.assert_array_equal(alone, together)


def test_integers_are_what_is_gathered() -> None:
    gathered = [n.inputs[0] for n in LOWERED.graph if n.op_type == "Gather" and n.inputs[0]]
    makers = [value.producer() for value in gathered]
    rounded = [maker for maker in makers if maker is not None and maker.op_type == "QuantizeLinear"]
    assert len(rounded) == 16  # queries and keys of eight groups
    assert not any(node.op_type == "If" for node in LOWERED.graph)


@pytest.mark.parametrize(
    "changes",
    [{"zero_type": "uint8", "zero": 128}, {"causal": 1}, {"k_width": 4, "kv_heads": 1}],
    ids=["not about zero", "causal", "shared keys"],
)
def test_attention_of_another_kind_is_attended_to_in_float32(changes: dict[str, object]) -> None:
    module = rounded_attention(**changes)
    lowered = lower(module, "openvino")
    assert any(node.op_type == "If" for node in lowered.nodes())
    assert "QuantizeLinear" not in kinds(lowered)
    given = tokens([3, 1, 0, 5], [3, 1, 0, 5])
    if "k_width" in changes:
        given |= {name: given[name][:, :4] for name in ("u", "v")}
    expected = Session(module, graph_optimizations=False).run(given)["y"]
    for session in (Session(lowered), OpenVinoSession(lowered)):
        assert np.abs(session.run(given)["y"] - expected).max() < UNROUNDED


MOVED = """g (float[T,4] x, float[U,4] z, int64[N] places) => (uint8[M,4] y{outputs})
    <float[4] factors = {{1, 2, 3, 4}}, float[4,1] factor = {{1, 2, 3, 4}},
     float scale = {{0.5}}, uint8 zero = {{7}}, float[4] scales = {{1, 2, 1, 2}},
     uint8[4] zeros = {{7, 7, 0, 0}}>
    {{
        {graph}
    }}"""
PLAIN = """joined = Concat <axis = 0> (x, z)
        moved = Gather <axis = 0> (joined, places)
        y = QuantizeLinear (moved, scale, zero)"""
SCALED = """joined = Concat <axis = 0> (x, z)
        moved = Gather <axis = 0> (joined, places)
        scaled = Mul (moved, factors)
        y = QuantizeLinear (scaled, scale, zero)"""

COMPUTED = "computed = Neg (x)" + SCALED.replace("(x, z)", "(computed, z)")
NOT_JOINED = """few = Constant <value = int64 {3}> ()
        rows = Mod (places, few)
        moved = Gather <axis = 0> (x, rows)
        y = QuantizeLinear (moved, scale, zero)"""
ANOTHER_AXIS = """columns = Constant <value = int64[4] {3, 2, 1, 0}> ()
        joined = Concat <axis = 0> (x, z)
        moved = Gather <axis = 1> (joined, columns)
        y = QuantizeLinear (moved, scale, zero)"""


def lowered_for_openvino(graph: str, outputs: str = "") -> Module:
    """Lowered, and found to give the same integers in both runtimes, some beyond the range."""
    module = module_from(MOVED.format(graph=graph, outputs=outputs))
    given = {
        "x": np.linspace(-9, 9, 12, dtype=np.float32).reshape(3, 4),
        "z": np.linspace(-200, 98, 8, dtype=np.float32).reshape(2, 4),
        "places": np.array([4, 0, 3, 1]),
    }
    lowered = lower(module, "openvino")
    expected = Session(module, graph_optimizations=False).run(given)["y"]
    np.testing.assert_array_equal(Session(lowered).run(given)["y"], expected)
    np.testing.assert_array_equal(OpenVinoSession(lowered).run(given)["y"], expected)
    return lowered


@pytest.mark.parametrize(
    "graph",
    [PLAIN, SCALED, COMPUTED],
    ids=["plain", "scaled", "computed"],
)
def test_what_is_joined_and_moved_is_rounded_before(graph: str) -> None:
    found = kinds(lowered_for_openvino(graph))
    assert found[-2:] == ["Concat", "Gather"]
    assert found.count("QuantizeLinear") == found.count("Max") == 2


@pytest.mark.parametrize(
    ("graph", "outputs"),
    [
        (PLAIN, ", float[N,4] moved"),
        (PLAIN, ", float[V,4] joined"),
        (NOT_JOINED, ""),
        (ANOTHER_AXIS, ""),
        (SCALED.replace("factors", "factor"), ""),
        (PLAIN.replace("scale, zero", "scales, zeros"), ""),
    ],
    ids=[
        "read elsewhere",
        "read before",
        "not joined",
        "another axis",
        "scaled by row",
        "per column",
    ],
)
def test_else_it_is_rounded_where_it_stood(graph: str, outputs: str) -> None:
    assert kinds(lowered_for_openvino(graph, outputs))[-1] == "QuantizeLinear"


def test_what_ends_a_product_stands_as_it_is() -> None:
    module = module_from(
        """g (float[T,4] x) => (uint8[T,3] y)
        <float[4,3] w = {...}, float[3] b = {...}, float scale = {0.5}, uint8 zero = {7}>
        {
            product = MatMul (x, w)
            biased = Add (product, b)
            active = Gelu (biased)
            y = QuantizeLinear (active, scale, zero)
        }""".replace("float[T,3] z", "float[T,4] z")
    )
    assert "Max" not in kinds(lower(module, "openvino"))
