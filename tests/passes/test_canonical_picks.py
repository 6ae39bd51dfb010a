"""One of several parts that lie side by side in the last axis is a range of it."""

from __future__ import annotations

import pytest
import torch

import dechaff
from dechaff.passes.canonicalize import Canonicalize
from tests.passes.rewrite_checks import check_ignores, check_rewrite

VIEWED = """
    g (float[B,S,24] x) => (y)
    <int64[5] sizes = {{0, 0, 3, 2, 4}}, int64 middle = {{1}}, int64 last = {{-1}},
     int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
     int64[3] ones = {{1, 1, 1}}, int64[1] before_last = {{-2}}, int64[1] from_behind = {{-3}},
     int64[2] picked = {{0, 1}}, int64[3] uneven = {{0, 1, 2}}>
    {{
        heads = Reshape (x, sizes)
        {pick}
    }}
"""

MIDDLE = """
    g (float[B,S,24] x) => (float[B,S,2,4] y)
    <int64[1] start = {8}, int64[1] end = {16}, int64[1] axis = {2}, int64[4] sizes = {0, 0, 2, 4}>
    {
        part = Slice (x, start, end, axis)
        y = Reshape (part, sizes)
    }
"""

PICKS_OF_THE_MIDDLE = {
    "gather": "y = Gather <axis = 2> (heads, middle)",
    "slice": "part = Slice (heads, one, two, two)\n y = Squeeze (part, two)",
    "slice from behind": "part = Slice (heads, before_last, two, from_behind, one)\n"
    "y = Squeeze (part, from_behind)",
    "split": "a, part, c = Split <axis = 2, num_outputs = 3> (heads)\n y = Squeeze (part, two)",
    "split by sizes": "a, part, c = Split <axis = -3> (heads, ones)\n y = Squeeze (part, two)",
}


@pytest.mark.parametrize("pick", PICKS_OF_THE_MIDDLE.values(), ids=list(PICKS_OF_THE_MIDDLE))
def test_one_part_is_a_range_of_columns(pick: str) -> None:
    check_rewrite(Canonicalize(), VIEWED.format(pick=pick), MIDDLE)


def test_the_last_index_is_known_by_the_size() -> None:
    pick = "y = Gather <axis = 2> (heads, last)"
    last = MIDDLE.replace("{16}", "{24}").replace("{8}", "{16}")
    check_rewrite(Canonicalize(), VIEWED.format(pick=pick), last)


def test_a_part_of_transposed_heads_is_picked_first() -> None:
    """``x.view(B, S, 3, H, d).permute(2, 0, 3, 1, 4)[1]``, as vision transformers have it."""
    pick = """turned = Transpose <perm = [2, 0, 3, 1, 4]> (heads)
              y = Gather <axis = 0> (turned, middle)"""
    expected = MIDDLE.replace("float[B,S,2,4]", "float[B,2,S,4]").replace(
        "y = Reshape (part, sizes)",
        "heads = Reshape (part, sizes)\n y = Transpose <perm = [0, 2, 1, 3]> (heads)",
    )
    check_rewrite(Canonicalize(), VIEWED.format(pick=pick), expected)


@pytest.mark.parametrize(
    "pick",
    [
        "y = Slice (heads, one, two, two)",
        "part = Slice (heads, zero, two, two)\n y = Neg (part)",
        "y = Gather <axis = 2> (heads, picked)",
        "y = Gather <axis = 3> (heads, middle)",
        "y = Gather <axis = 4> (heads, middle)",
        "part = Slice (heads, one, two, three)\n y = Squeeze (part, three)",
        "y = Gather <axis = 1> (heads, middle)",
        "a, part, c = Split <axis = 2> (heads, uneven)\n y = Squeeze (part, two)",
    ],
)
def test_what_is_not_one_part_of_the_last_axis_stays(pick: str) -> None:
    check_ignores(Canonicalize(), VIEWED.format(pick=pick))


def test_parts_that_lie_apart_stay() -> None:
    """``[B, S, 24]`` as ``[B * S, 3, 8]``: the axes in front are not those of before."""
    check_ignores(
        Canonicalize(),
        """g (float[B,S,24] x) => (float[R,8] y) <int64[3] sizes = {-1, 3, 8}, int64 first = {0}>
        {
            heads = Reshape (x, sizes)
            y = Gather <axis = 1> (heads, first)
        }""",
    )


def test_an_index_of_a_transposed_input_stays() -> None:
    check_ignores(
        Canonicalize(),
        """g (float[B,S,24] x) => (float[B,S] y) <int64 first = {0}>
        {
            turned = Transpose <perm = [2, 0, 1]> (x)
            y = Gather <axis = 0> (turned, first)
        }""",
    )


class JointProjection(torch.nn.Module):
    """Attention whose query, key and value are one product, taken apart in one of two ways."""

    def __init__(self, *, permuted: bool) -> None:
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)
        self.permuted = permuted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(x).view(x.shape[0], x.shape[1], 3, 2, 8)
        if self.permuted:
            query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            query, key, value = (part.transpose(1, 2) for part in heads.unbind(2))
        context = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        joined: torch.Tensor = self.out(context.transpose(1, 2).reshape(x.shape))
        return joined


@pytest.mark.parametrize("permuted", [False, True])
def test_attention_reads_the_columns_of_a_joint_projection(*, permuted: bool) -> None:
    torch.manual_seed(0)
    optimized = dechaff.optimize(
        JointProjection(permuted=permuted).eval(), torch.randn(2, 5, 16), progress=False
    )
    kinds = [node.op_type for node in optimized.module.nodes()]
    assert "Attention" in kinds
    assert not {"Transpose", "Reshape", "Squeeze", "Gather"} & set(kinds)
