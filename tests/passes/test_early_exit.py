from __future__ import annotations

import functools
import pathlib

import numpy as np
import pytest

from dechaff.backends import Session, lower
from dechaff.ir import Module, UsageError
from dechaff.passes import PassRecord, Rewriter, parse_pass_list, run_passes
from dechaff.passes.early_exit import EarlyExit, EarlyExitOptions
from dechaff.passes.exits.light_heads import LightHead, load_heads, save_heads
from dechaff.passes.exits.skip_normalizations import split_skip_normalizations
from dechaff.passes.exits.stacks import find_stacks
from dechaff.passes.skip_unread_rows import SkipUnreadRows
from tests.model_runner import Array, run_module
from tests.passes.exit_graphs import encoder
from tests.passes.rewrite_checks import check_declines, module_from

ALWAYS = {"similarity": -2.0, "entropy": 1e9, "gap": -2.0}
SOMETIMES = {"similarity": 0.8, "entropy": 0.37, "gap": 0.78, "patience": 1.0}
"""Thresholds at which some rows of the cases below leave, and others do not."""

LAYOUTS = {
    "padded": "",
    "packed": "remove-padding",
    "packed and fused": "remove-padding,fuse-skip-normalization",
}

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_norm = pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])
each_criterion = pytest.mark.parametrize("criterion", SOMETIMES)


@functools.cache
def prepared(layout: str = "packed", pre_norm: bool = False) -> Module:
    module = module_from(encoder(pre_norm=pre_norm))
    return run_passes(module, parse_pass_list(LAYOUTS[layout]))[0]


def with_exits(module: Module, **options: str) -> tuple[Module, PassRecord]:
    after, records = run_passes(module.clone(), [EarlyExit(EarlyExitOptions(**options))])
    return after, records[0]


@functools.cache
def cases() -> tuple[dict[str, Array], ...]:
    generator = np.random.default_rng(1)
    found = []
    for batch, sequence in ((5, 6), (1, 4), (3, 1)):
        mask = generator.random((batch, sequence)) < 0.6
        mask[0] = True
        if batch > 3:
            mask[2] = False  # a row without a token
        x = generator.standard_normal((batch, sequence, 4)).astype(np.float32)
        found.append({"x": x, "mask": mask})
    return tuple(found)


def defaults(module: Module) -> Array:
    value = module.graph.inputs[-1]
    assert value.name == "exit_thresholds"
    assert value.const_value is not None
    return np.array(value.const_value.numpy())


def cut_after(module: Module, layer: int) -> Module:
    """The model without the layers after one."""
    cut = module.clone()
    rewriter = Rewriter(cut)
    split_skip_normalizations(cut, rewriter)
    boundaries = find_stacks(cut.graph, rewriter)[0].boundaries
    boundaries[-1].replace_all_uses_with(boundaries[layer - 1])
    return run_passes(cut, [])[0]


def answers(session: Session, inputs: dict[str, Array], thresholds: Array | None = None) -> Array:
    given = {} if thresholds is None else {"exit_thresholds": thresholds}
    return session.run({**inputs, **given})["logits"]


def check_never(base: Module, exits: Module) -> Session:
    """With the default thresholds the answers are the base model's, to the bit."""
    served, served_base = Session(lower(exits)), Session(lower(base))
    for inputs in cases():
        reference = run_module(exits, {**inputs, "exit_thresholds": defaults(exits)})["logits"]
        assert np.array_equal(reference, run_module(base, inputs)["logits"])
        assert np.array_equal(answers(served, inputs), answers(served_base, inputs))
    return served


def check_rows_alone(served: Session, inputs: dict[str, Array], thresholds: Array) -> None:
    """A row's answer does not depend on its batch mates, where some of them leave."""
    together = answers(served, inputs, thresholds)
    assert not np.array_equal(together, answers(served, inputs))
    for row in range(len(together)):
        alone = answers(served, {k: v[row : row + 1] for k, v in inputs.items()}, thresholds)
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-6)


@each_layout
@each_norm
def test_never_and_always_leaving_are_exact(pre_norm: bool, layout: str) -> None:
    base = prepared(layout, pre_norm)
    exits, record = with_exits(base)
    assert "after layer 1, 2, 3 of 4" in record.notes[0]
    served = check_never(base, exits)
    for layer in (1, 3):
        cut = Session(lower(cut_after(base, layer)))
        thresholds = defaults(exits)
        thresholds[layer - 1] = ALWAYS["similarity"]
        for inputs in cases():
            assert np.array_equal(answers(served, inputs, thresholds), answers(cut, inputs))


@pytest.mark.parametrize("criterion", ["entropy", "gap"])
def test_always_leaving_by_confidence_is_the_model_cut_short(criterion: str) -> None:
    base = prepared()
    exits, _ = with_exits(base, criterion=criterion, layers="2")
    served = check_never(base, exits)
    cut = Session(lower(cut_after(base, 2)))
    thresholds = np.array([ALWAYS[criterion]], np.float32)
    for inputs in cases():
        assert np.array_equal(answers(served, inputs, thresholds), answers(cut, inputs))


@each_criterion
def test_rows_do_not_depend_on_each_other(criterion: str) -> None:
    exits, _ = with_exits(prepared(), criterion=criterion)
    served, base = Session(lower(exits)), Session(lower(prepared()))
    inputs = cases()[0]
    thresholds = np.full_like(defaults(exits), SOMETIMES[criterion])
    together = answers(served, inputs, thresholds)
    changed = np.abs(together - answers(base, inputs)).max(axis=1) > 1e-4
    assert changed.any()
    assert criterion == "patience" or not changed.all()
    for row in range(len(together)):
        alone = answers(served, {k: v[row : row + 1] for k, v in inputs.items()}, thresholds)
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-6)


@each_layout
@each_norm
def test_the_last_layer_computes_the_token_that_is_read(pre_norm: bool, layout: str) -> None:
    """With skip-unread-rows behind, in the branch as in the model without exits."""
    base, _ = run_passes(prepared(layout, pre_norm).clone(), [SkipUnreadRows()])
    exits, _ = run_passes(prepared(layout, pre_norm).clone(), [EarlyExit(), SkipUnreadRows()])
    branches = [node for node in exits.graph if node.op_type == "If"]
    assert [str(node.outputs[0].shape) for node in branches][-1] in ("[B,4]", "[B,1,4]")
    attentions = [node for node in exits.nodes() if node.op_type.endswith("Attention")]
    sizes = {str(node.outputs[0].shape) for node in attentions if node.graph is not exits.graph}
    assert any(size in ("[rows_after_3,4]", "[rows_after_3,1,4]") for size in sizes), sizes
    served = check_never(base, exits)
    whole = Session(lower(with_exits(prepared(layout, pre_norm))[0]))
    for layer in (1, 3):
        thresholds = defaults(exits)
        thresholds[layer - 1] = ALWAYS["similarity"]
        for inputs in cases():
            expected = answers(whole, inputs, thresholds)
            assert np.array_equal(answers(served, inputs, thresholds), expected)
    inputs, some = cases()[0], np.full_like(thresholds, SOMETIMES["similarity"])
    check_rows_alone(served, inputs, some)


def test_a_second_reader_of_the_last_state_keeps_it_whole() -> None:
    text = encoder().replace("logits)", "logits, float[B,S,4] states)")
    exits, _ = run_passes(module_from(text), [EarlyExit(), SkipUnreadRows()])
    branches = [node for node in exits.graph if node.op_type == "If"]
    assert str(branches[-1].outputs[0].shape) == "[B,S,4]"


def test_patience_counts_exits_with_the_same_answer() -> None:
    base = prepared()
    exits, _ = with_exits(base, criterion="patience")
    served = check_never(base, exits)
    inputs = cases()[0]
    by_layer = [answers(Session(lower(cut_after(base, layer))), inputs) for layer in (1, 2, 3)]
    by_layer.append(answers(Session(lower(base)), inputs))
    choices = np.stack([logits.argmax(axis=1) for logits in by_layer])
    found = answers(served, inputs, np.full(3, 1, np.float32))
    for row in range(len(found)):
        agreed = [k for k in (1, 2) if choices[k, row] == choices[k - 1, row]]
        np.testing.assert_allclose(found[row], by_layer[agreed[0] if agreed else 3][row], rtol=1e-5)


def light_heads(path: pathlib.Path, layers: tuple[int, ...] = (1, 2, 3)) -> str:
    generator = np.random.default_rng(2)
    weights = {
        layer: LightHead(
            generator.standard_normal((2, 8)).astype(np.float32),
            generator.standard_normal(2).astype(np.float32),
        )
        for layer in layers
    }
    save_heads(weights, path)
    assert load_heads(path).keys() == weights.keys()
    return str(path)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_light_heads_answer_for_the_rows_that_leave(layout: str, tmp_path: pathlib.Path) -> None:
    base = prepared(layout)
    path = light_heads(tmp_path / "heads.npz")
    exits, _ = with_exits(base, criterion="entropy", heads=path)
    served = check_never(base, exits)
    inputs = {"x": cases()[0]["x"], "mask": cases()[0]["mask"] | (np.arange(6) == 0)}
    thresholds = np.array([-1, 1e9, 0], np.float32)
    boundaries = find_stacks(prepared("padded").graph, Rewriter(prepared("padded")))[0].boundaries
    probe = prepared("padded").clone()
    state = next(v for n in probe.graph for v in n.outputs if v.name == boundaries[1].name)
    probe.graph.outputs[:] = [state]
    hidden = run_module(probe, inputs)[state.name or ""]
    kept = inputs["mask"][..., None]
    mean = (hidden * kept).sum(axis=1) / kept.sum(axis=1)
    head = load_heads(path)[2]
    expected = np.concatenate([hidden[:, 0], mean], axis=1) @ head.weight.T + head.bias
    found = answers(served, inputs, thresholds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_layer_without_a_head_is_an_error(tmp_path: pathlib.Path) -> None:
    path = light_heads(tmp_path / "heads.npz", layers=(1,))
    with pytest.raises(UsageError, match="none for layer 2"):
        with_exits(prepared(), criterion="entropy", heads=path)


def test_a_file_that_holds_no_heads_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "heads.npz").write_text("no archive")
    with pytest.raises(UsageError, match="not a readable file"):
        load_heads(tmp_path / "heads.npz")


def test_a_fixed_batch_size_stops_it() -> None:
    check_declines(EarlyExit(), encoder(2).replace("[B,", "[3,"), "the batch size is fixed")


def test_an_output_that_is_not_clear_stops_confidence() -> None:
    text = encoder(2).replace("(float[B,2] logits)", "(float[B,2] a, float[B,4] cls)")
    text = text.replace("logits = ", "a = ")
    check_declines(EarlyExit(EarlyExitOptions(criterion="gap")), text, "output=..., of a, cls")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("criterion=luck", "criterion expects similarity, entropy, gap, patience"),
        ("layers=two", "layers expects 'all' or numbers"),
        ("threshold=low", "threshold expects 'never' or numbers"),
    ],
)
def test_options_are_checked(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pass_list(f"early-exit{{{options}}}")


def test_thresholds_are_one_for_all_exits_or_one_for_each() -> None:
    exits, _ = with_exits(prepared(), threshold="0.5")
    assert defaults(exits).tolist() == [0.5, 0.5, 0.5]
    exits, _ = with_exits(prepared(), layers="1+3", threshold="0.5+0.25")
    assert defaults(exits).tolist() == [0.5, 0.25]
    with pytest.raises(UsageError, match="2 thresholds for 3 exits"):
        with_exits(prepared(), threshold="0.5+0.25")


def test_layers_of_integers_may_be_left_early_if_each_token_has_its_scale() -> None:
    passes = "fuse-attention,remove-padding,quantize-dynamic{{activations={}}},early-exit"
    whole, _ = run_passes(module_from(encoder()), parse_pass_list(passes.format("token")))
    conditions = [node for node in whole.graph if node.op_type == "If"]
    assert len(conditions) == 3
    inside = [node.op_type for node in whole.nodes() if node.graph is not whole.graph]
    assert inside.count("QuantizedMatMul") == 3 * 6
    left, records = run_passes(module_from(encoder()), parse_pass_list(passes.format("tensor")))
    assert not any(node.op_type == "If" for node in left.graph)
    assert "one scale for all rows" in str(records[-1].misses)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_rows_leave_before_the_layer_behind_which_tokens_stand_still(layout: str) -> None:
    steps = ",".join(filter(None, ("freeze-tokens{after=2}", LAYOUTS[layout])))
    still, _ = run_passes(module_from(encoder(5)), parse_pass_list(steps))
    base, _ = run_passes(still.clone(), [SkipUnreadRows()])
    exits, records = run_passes(still.clone(), [EarlyExit(), SkipUnreadRows()])
    assert "after layer 1, 2 of 5" in records[0].notes[0]
    served = check_never(base, exits)
    thresholds = np.array([2, ALWAYS["similarity"]], np.float32)
    cut = Session(lower(cut_after(still, 2)))
    for inputs in cases():
        assert np.array_equal(answers(served, inputs, thresholds), answers(cut, inputs))
    inputs, some = cases()[0], np.full(2, SOMETIMES["similarity"], np.float32)
    check_rows_alone(served, inputs, some)


def test_no_row_leaves_where_a_later_layer_reads_older_keys() -> None:
    passes = "freeze-tokens{after=1},early-exit{layers=2+3}"
    after, records = run_passes(module_from(encoder(4)), parse_pass_list(passes))
    assert not any(node.op_type == "If" for node in after.graph)
    reasons = [miss.reason for record in records for miss in record.misses]
    assert any("after 2, 3 later layers read keys of a state before" in r for r in reasons)
