"""Attention with a soft cap on ONNX Runtime: the same numbers without the runtime's slow kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dechaff.backends import Session, lower
from dechaff.ir import Module, infer_shapes, parse
from tests.model_runner import Array

HEADS_APART = "float[B,4,S,8] q, float[B,{kv},T,8] k, float[B,{kv},T,8] v", "float[B,4,S,8]"
HEADS_JOINED = "float[B,S,32] q, float[B,T,{width}] k, float[B,T,{width}] v", "float[B,S,32]"


def attention(
    joined: bool = False, key_heads: int = 4, mask: str = "", attributes: str = "softcap = 5.0"
) -> Module:
    inputs, output = HEADS_JOINED if joined else HEADS_APART
    inputs = inputs.format(kv=key_heads, width=8 * key_heads)
    given_mask, name = (f", {mask} mask", ", mask") if mask else ("", "")
    if joined:
        attributes += f", q_num_heads = 4, kv_num_heads = {key_heads}"
    module = parse(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        capped ({inputs}{given_mask}) => ({output} y)
        {{
            y = Attention <{attributes}> (q, k, v{name})
        }}
    """)
    infer_shapes(module)
    return module


def inputs_of(module: Module, sizes: dict[str, int], seed: int = 0) -> dict[str, Array]:
    generator, found = np.random.default_rng(seed), {}
    for value in module.graph.inputs:
        shape = [d if isinstance(d, int) else sizes[d.value or ""] for d in value.shape or ()]
        array = 4 * generator.standard_normal(shape)
        is_mask = value.dtype is not None and value.dtype.name == "BOOL"
        found[value.name or ""] = array > -3 if is_mask else array.astype(np.float32)
    return found


def is_spelled_out(module: Module) -> bool:
    return all(node.op_type != "Attention" for node in lower(module, "cpu").nodes())


def assert_same(module: Module, sizes: dict[str, int], seed: int = 0) -> None:
    inputs = inputs_of(module, sizes, seed)
    ours = Session(lower(module, "cpu"), graph_optimizations=True).run(inputs)["y"]
    runtime = Session(module, graph_optimizations=False).run(inputs)["y"]
    np.testing.assert_allclose(ours, runtime, rtol=2e-5, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    joined=st.booleans(),
    key_heads=st.sampled_from([1, 2, 4]),
    mask=st.sampled_from(["", "bool[B,1,S,T]", "float[B,1,S,T]", "bool[S,T]", "float[1,4,S,T]"]),
    scale=st.sampled_from(["", ", scale = 0.3"]),
    sizes=st.fixed_dictionaries({name: st.integers(1, 9) for name in "BST"}),
)
def test_the_numbers_are_those_of_the_runtime(
    joined: bool, key_heads: int, mask: str, scale: str, sizes: dict[str, int]
) -> None:
    module = attention(joined, key_heads, mask, "softcap = 5.0" + scale)
    assert is_spelled_out(module)
    assert_same(module, sizes)


def test_a_query_that_sees_no_key_gets_zeros() -> None:
    module = attention(mask="bool[S,T]")
    inputs = inputs_of(module, {"B": 2, "S": 3, "T": 4})
    inputs["mask"][1] = False
    ours = Session(lower(module, "cpu"), graph_optimizations=True).run(inputs)["y"]
    assert not ours[:, :, 1].any()
    assert ours[:, :, 0].any()


@pytest.mark.parametrize("attributes", ["scale = 0.5", "softcap = 5.0, is_causal = 1"])
def test_attention_without_a_cap_or_with_more_stays(attributes: str) -> None:
    assert not is_spelled_out(attention(attributes=attributes))


def test_attention_in_a_type_without_such_kernels_stays() -> None:
    module = parse("""
        <ir_version: 10, opset_import: ["" : 23]>
        capped (bfloat16[B,4,S,8] q, bfloat16[B,4,S,8] k, bfloat16[B,4,S,8] v, bool[S,S] mask)
            => (bfloat16[B,4,S,8] y)
        {
            y = Attention <softcap = 5.0> (q, k, v, mask)
        }
    """)
    infer_shapes(module)
    assert not is_spelled_out(module)


def test_attention_with_past_keys_stays() -> None:
    module = parse("""
        <ir_version: 10, opset_import: ["" : 23]>
        step (float[B,4,1,8] q, float[B,4,1,8] k, float[B,4,1,8] v, float[B,4,P,8] past_k,
              float[B,4,P,8] past_v)
            => (float[B,4,1,8] y, float[B,4,T,8] present_k, float[B,4,T,8] present_v)
        {
            y, present_k, present_v = Attention <softcap = 5.0> (q, k, v, , past_k, past_v)
        }
    """)
    infer_shapes(module)
    assert not is_spelled_out(module)


@pytest.mark.parametrize("target", ["portable", "openvino"])
def test_other_targets_keep_the_operator(target: str) -> None:
    assert any(node.op_type == "Attention" for node in lower(attention(), target).nodes())
