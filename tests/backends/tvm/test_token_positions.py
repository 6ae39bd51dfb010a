"""Layouts within others: positions are looked up, and nothing is read back in the middle."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import tvm
from tvm import relax

from dechaff.backends.tvm import resolve_target
from dechaff.backends.tvm.build import fuse
from dechaff.backends.tvm.relax_module import to_relax
from dechaff.backends.tvm.token_counting import COUNT_TOKENS
from dechaff.backends.tvm.token_positions import look_positions_up
from dechaff.ir import parse

from .compiling import compare

TWO_LAYOUTS = """
    <ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>
    pooled (float[B,S,4] x, bool[B,S] mask) => (float[B,S,4] y, float[N,4] kept)
    <bool[1,3] first = {1, 0, 0}, int64[1] all = {-1}>
    {
        more = Or (mask, first)
        few_index, few_starts, few_places = dechaff.TokenLayout (mask)
        index, starts, places = dechaff.TokenLayout (more)
        rows = dechaff.Pack (x, index, more)
        flat = Reshape (mask, all)
        is_kept = Gather <axis = 0> (flat, index)
        found = NonZero (is_kept)
        positions = Reshape (found, all)
        kept = Gather <axis = 0> (rows, positions)
        y = dechaff.Unpack (kept, few_index, mask)
    }
"""


def operators(text: str) -> Counter[str]:
    module = parse(text)
    look_positions_up(module)
    return Counter(node.op_type for node in module.graph)


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param([[1, 1, 0], [1, 0, 0]], id="right padding"),
        pytest.param([[0, 1, 1], [0, 0, 1]], id="left padding"),
        pytest.param([[0, 0, 0], [1, 0, 1]], id="an empty row"),
        pytest.param([[1, 1, 1]], id="no padding"),
    ],
)
def test_positions_are_those_that_a_search_finds(mask: list[list[int]]) -> None:
    sizes = {"B": len(mask), "S": 3}
    compare(TWO_LAYOUTS, [sizes], {"mask": np.array(mask, bool)})


def test_a_search_becomes_a_lookup() -> None:
    assert operators(TWO_LAYOUTS)["NonZero"] == 0


def test_a_layout_inside_a_conjunction_is_within_too() -> None:
    inside = TWO_LAYOUTS.replace("more = Or", "narrow = And (mask, given)\nmore = Or")
    inside = inside.replace("TokenLayout (mask)", "TokenLayout (narrow)")
    inside = inside.replace("Reshape (mask,", "Reshape (narrow,").replace(
        "bool[B,S] mask", "bool[B,S] mask, bool[B,S] given"
    )
    assert operators(inside.replace("few_index, mask", "few_index, narrow"))["NonZero"] == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("Or (mask, first)", "And (mask, first)", id="the layout is not within"),
        pytest.param("TokenLayout (mask)", "TokenLayout (more)", id="the mask has no layout"),
        pytest.param("(flat, index)", "(flat, places_flat)", id="not the tokens of a layout"),
    ],
)
def test_other_searches_stay(old: str, new: str) -> None:
    text = TWO_LAYOUTS.replace(old, new)
    text = text.replace("rows =", "places_flat = Reshape (places, all)\nrows =")
    assert operators(text)["NonZero"] == 1


def test_the_tokens_of_a_static_batch_have_a_bound_and_others_none() -> None:
    static = to_relax(parse(TWO_LAYOUTS.replace("B,S", "40,3")), "cuda", "sm_90").module
    bounds = static["main"].attrs["tir_var_upper_bound"]
    assert [int(bound) for bound in bounds.values()] == [128, 128]
    symbolic = to_relax(parse(TWO_LAYOUTS), "cuda", "sm_90").module["main"]
    assert "tir_var_upper_bound" not in (symbolic.attrs or {})


def test_memory_is_planned_for_the_bound() -> None:
    module = to_relax(parse(TWO_LAYOUTS.replace("B,S", "40,3")), "cuda", "sm_90").module
    target = resolve_target('{"kind": "cuda", "arch": "sm_90"}')
    with target:
        planned = tvm.transform.Sequential(
            [
                relax.transform.ToNonDataflow(),
                relax.transform.RemovePurityChecking(),
                relax.transform.CallTIRRewrite(),
                relax.transform.StaticPlanBlockMemory(),
            ]
        )(fuse(module, target))
    storages = re.findall(r"alloc_storage\(R\.shape\(\[(.*?)\]", planned["main"].script())
    assert storages
    assert not any("tokens" in size for size in storages)


def test_on_a_gpu_every_layout_is_counted_beforehand() -> None:
    text = TWO_LAYOUTS.replace("float[", "float16[")
    lowered = to_relax(parse(text), "cuda", "sm_90").module
    assert lowered[COUNT_TOKENS].ret_ty.shape.values[0] == 2
    main = str(lowered["main"].script())
    assert "tensor_to_shape" not in main
    assert len(lowered["main"].params[-1].ty.values) == 2
