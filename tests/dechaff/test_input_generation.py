from __future__ import annotations

import numpy as np
import pytest

from dechaff.input_generation import MIXED, NO_PADDING, InputCase, few_cases, generate_inputs
from dechaff.input_roles import Role, input_roles
from dechaff.ir import SymbolRange, parse

from .examples import MASKED_ENCODER, linear, masked_encoder, numbers


def _cases(cases: list[InputCase]) -> dict[str, InputCase]:
    return {case.name: case for case in cases}


def test_every_way_of_padding_is_covered() -> None:
    masks = {
        name: case.inputs["attention_mask"]
        for name, case in _cases(generate_inputs(masked_encoder())).items()
    }
    lengths = masks["right-padded"].sum(axis=1)
    assert lengths.min() == 1
    assert lengths.max() == masks["right-padded"].shape[1]
    assert (np.diff(masks["right-padded"], axis=1) <= 0).all()
    assert (np.diff(masks["left-padded"], axis=1) >= 0).all()
    assert masks[NO_PADDING].all()
    assert 0 in masks["an all-padded row"].sum(axis=1)
    assert masks["batch of 1"].shape[0] == 1
    assert masks["sequence of 1"].shape[1] == 1
    holes = np.diff(masks["interleaved padding"], axis=1)
    assert holes.min() == -1
    assert holes.max() == 1


def test_sizes_agree_between_inputs_that_share_a_symbol() -> None:
    for case in generate_inputs(masked_encoder()):
        assert case.inputs["input_ids"].shape == case.inputs["attention_mask"].shape


def test_ids_stay_inside_the_table_that_they_index() -> None:
    ids = np.concatenate([c.inputs["input_ids"].ravel() for c in generate_inputs(masked_encoder())])
    assert ids.min() >= 0
    assert ids.max() < 10
    assert len(np.unique(ids)) > 2


def test_ids_are_followed_through_casts_and_shifts_to_the_smallest_table() -> None:
    module = parse(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        shifted (int32[B,S] positions) => (float[B,S,2] y)
        <float[6,2] table = {numbers(6, 2)}, int64 two = {{2}}>
        {{
            wide = Cast <to = 7> (positions)
            moved = Add (wide, two)
            y = Gather (table, moved)
        }}""")
    (role,) = input_roles(module)
    assert (role.role, role.num_ids) == (Role.IDS, 4)


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "float"])
def test_a_mask_of_any_dtype_is_a_mask(dtype: str) -> None:
    text = MASKED_ENCODER.replace("int64[B,S] attention_mask", f"{dtype}[B,S] attention_mask")
    roles = {role.value.name: role.role for role in input_roles(parse(text))}
    assert roles == {"input_ids": Role.IDS, "attention_mask": Role.MASK}


def test_padding_that_the_graph_finds_by_an_id_is_drawn_as_that_id() -> None:
    module = parse(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        by_id (int64[B,S] input_ids) => (float[B,S,2] y, bool[B,S] padding)
        <float[6,2] table = {numbers(6, 2)}, int64 one = {{1}}>
        {{
            padding = Equal (input_ids, one)
            y = Gather (table, input_ids)
        }}""")
    cases = _cases(generate_inputs(module))
    padded = cases["left-padded"].inputs["input_ids"] == 1
    assert padded.any()
    assert (np.diff(padded.astype(int), axis=1) <= 0).all()
    assert not (cases[NO_PADDING].inputs["input_ids"] == 1).any()


def test_floats_are_normal_and_a_model_without_mask_gets_no_padding_cases() -> None:
    cases = generate_inputs(linear())
    assert [case.name for case in cases] == ["generated", "batch of 1", "extreme values"]
    assert cases[0].inputs["x"].dtype == np.float32
    assert cases[0].inputs["x"].std() > 0.5


def test_declared_ranges_bound_the_sizes() -> None:
    module = masked_encoder()
    module.symbols = {"B": SymbolRange(2, 3), "S": SymbolRange(5, 5)}
    shapes = {case.inputs["input_ids"].shape for case in generate_inputs(module)}
    assert shapes == {(3, 5), (2, 5)}


def test_the_same_module_gives_the_same_inputs() -> None:
    first, second = generate_inputs(masked_encoder()), generate_inputs(masked_encoder())
    for left, right in zip(first, second, strict=True):
        assert all(np.array_equal(left.inputs[k], right.inputs[k]) for k in left.inputs)


def test_one_case_has_rows_padded_in_all_ways() -> None:
    cases = generate_inputs(masked_encoder())
    (mixed,) = [case for case in cases if case.name == MIXED]
    mask = mixed.inputs["attention_mask"]
    assert mask[0].all()
    assert not mask[-1].any()
    assert len({tuple(row) for row in mask.tolist()}) == len(mask)
    assert [cases[index].name for index in few_cases(cases)] == [MIXED]


def test_cases_that_a_caller_gave_are_among_the_few() -> None:
    given = [InputCase("example inputs 1", {}), InputCase("example inputs 2", {})]
    cases = [*given, *generate_inputs(masked_encoder())]
    assert [cases[index].name for index in few_cases(cases)] == ["example inputs 1", MIXED]
    assert few_cases(cases[:3]) == [0, 1, 2]


def test_extreme_values_are_rows_of_zeros_tiny_numbers_and_the_ends_of_tables() -> None:
    x = _cases(generate_inputs(linear()))["extreme values"].inputs["x"]
    assert not x[0].any()
    assert 0 < np.abs(x[2]).max() < 1e-5
    ids = _cases(generate_inputs(masked_encoder()))[NO_PADDING].inputs["input_ids"]
    assert set(ids.reshape(-1)) == {0, 9}


def test_ids_reach_both_ends_of_their_table() -> None:
    for case in generate_inputs(masked_encoder()):
        ids = case.inputs["input_ids"]
        assert ids.reshape(-1)[0] == 0
        assert ids.reshape(-1)[-1] == ids.max()
