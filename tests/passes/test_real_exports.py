"""The fusions on real exports: however an exporter spells a layer, the same operators come out."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from dechaff.ir import Module, graph_cost, parse, to_text
from dechaff.passes import Numerics, PassRecord, parse_pass_list, run_passes
from tests.model_runner import Array, run_module
from tests.passes.conftest import LAYERS
from tests.passes.rewrite_checks import assert_close

FUSIONS = """canonicalize,fold-constants,fuse-gelu,fuse-layer-normalization,fuse-attention,
    merge-qkv,fuse-skip-normalization,fuse-bias-gelu"""
SPELLINGS = [("eager", 14), ("sdpa", 17), ("sdpa", 18), ("sdpa", 23)]

each_spelling = pytest.mark.parametrize(("attention", "opset"), SPELLINGS)
Export = Callable[[str, int], Module]
Fused = Callable[[str, int], tuple[Module, dict[str, PassRecord]]]


def fuse(module: Module) -> tuple[Module, dict[str, PassRecord]]:
    result, records = run_passes(module.clone(), parse_pass_list(FUSIONS))
    return result, {record.name: record for record in records}


@pytest.fixture(scope="module")
def fused_bert(
    exported_bert: Export,
) -> Fused:
    """The export of a spelling after the fusions, made once each; not to be changed."""
    return functools.cache(lambda attention, opset: fuse(exported_bert(attention, opset)))


def operators(module: Module) -> Counter[str]:
    return Counter(node.op_type for node in module.graph)


def inputs_of(batch: int, length: int) -> dict[str, Array]:
    """Rows of different lengths, the last one full."""
    ids = np.arange(batch * length).reshape(batch, length) % 50
    lengths = np.linspace(1, length, batch).astype(np.int64)[:, None]
    mask = (np.arange(length) < np.maximum(lengths, length * (lengths == lengths.max()))).astype(
        np.int64
    )
    return {"input_ids": ids, "attention_mask": mask}


@each_spelling
def test_every_layer_becomes_the_same_few_operators(
    fused_bert: Fused, attention: str, opset: int
) -> None:
    result, _ = fused_bert(attention, opset)
    found = operators(result)
    expected = {
        "Attention": LAYERS,
        "BiasGelu": LAYERS,
        "BiasSkipLayerNormalization": 2 * LAYERS,
        "LayerNormalization": 1,  # of the embeddings: the positions' sum is broadcast
        "MatMul": 4 * LAYERS,  # query, key and value in one; output; two of the feed-forward
        "Split": LAYERS,
    }
    if found["LayerNormalization"] == 0:
        expected |= {"LayerNormalization": 0, "SkipLayerNormalization": 1}
    assert {name: found[name] for name in expected} == expected
    gone = ["Erf", "Pow", "ReduceMean", "Softmax", "Sqrt", "GatherND", "IsNaN"]
    assert [name for name in gone if found[name]] == []


@each_spelling
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7)])
def test_numbers_hold(
    exported_bert: Export,
    fused_bert: Fused,
    attention: str,
    opset: int,
    batch: int,
    length: int,
) -> None:
    original = exported_bert(attention, opset)
    result, _ = fused_bert(attention, opset)
    inputs = inputs_of(batch, length)
    expected, found = run_module(original, inputs), run_module(result, inputs)
    assert expected.keys() == found.keys()
    for name in expected:
        assert_close(Numerics.REASSOCIATES, found[name], expected[name], name)


@each_spelling
def test_no_pass_adds_work(exported_bert: Export, attention: str, opset: int) -> None:
    module = exported_bert(attention, opset)
    sizes = dict.fromkeys(("batch", "sequence"), 3)
    before = graph_cost(module).at(sizes)[0]
    for step in parse_pass_list(FUSIONS):
        module, (record,) = run_passes(module, [step])
        after = graph_cost(module).at(sizes)[0]
        assert after <= before, record.name
        before = after


def test_each_pass_fires_once_per_layer_where_the_export_is_primitive(
    fused_bert: Fused,
) -> None:
    _, records = fused_bert("eager", 14)
    fired = {name: Counter(r.rule for r in record.rewrites) for name, record in records.items()}
    assert fired["fuse-gelu"] == {"fuse-gelu": LAYERS}
    assert fired["fuse-layer-normalization"] == {"fuse-layer-normalization": 2 * LAYERS + 1}
    assert fired["merge-qkv"] == {"merge-qkv": LAYERS}
    assert fired["fuse-bias-gelu"] == {"fuse-bias-gelu": LAYERS}
    assert fired["canonicalize"]["gather-of-flat-ranges"] == 1


def test_transposed_keys_and_the_mask_of_sdpa_are_seen_through(fused_bert: Fused) -> None:
    _, records = fused_bert("sdpa", 18)
    rules = Counter(rewrite.rule for rewrite in records["canonicalize"].rewrites)
    assert rules["transpose-through-reshapes"] == LAYERS
    assert rules["gather-nd-of-ranges"] == 1


def test_fused_nodes_know_the_nodes_they_stand_for(
    exported_bert: Export, fused_bert: Fused
) -> None:
    imported = {node.name for node in exported_bert("sdpa", 18).graph}
    _, records = fused_bert("sdpa", 18)
    for record in records.values():
        for rewrite in record.rewrites:
            assert set(rewrite.origins) <= imported
    gelus = records["fuse-gelu"].rewrites
    assert all(len(rewrite.origins) == 5 for rewrite in gelus)


def test_fused_graph_survives_text_form(fused_bert: Fused) -> None:
    result, _ = fused_bert("sdpa", 23)
    again = parse(to_text(result))
    inputs = inputs_of(2, 5)
    expected, found = run_module(result, inputs), run_module(again, inputs)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_fusing_again_gives_the_same_text(exported_bert: Export, fused_bert: Fused) -> None:
    again, _ = fuse(exported_bert("sdpa", 18))
    assert to_text(again) == to_text(fused_bert("sdpa", 18)[0])
