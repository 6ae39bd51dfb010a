"""Checks of passes on graphs in text form: the result's structure, and its numbers."""

from __future__ import annotations

import math
import re
import textwrap
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir.passes.common as common_passes

from dechaff.ir import Module, graph_cost, parse, stamp_origins, structural_diff
from dechaff.passes import (
    Numerics,
    Pass,
    PassContext,
    PassRecord,
    parse_pass_list,
    run_passes,
)
from tests.model_runner import Array, random_inputs, run_module

HEADER = '<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>\n'
SIZE_SETS: tuple[Mapping[str, int], ...] = (
    {"B": 2, "S": 5, "T": 7},
    {"B": 1, "S": 1, "T": 1},
    {"B": 3, "S": 2, "T": 5},
)
APPROXIMATE_ERROR = 0.5
RELATIVE_TOLERANCE = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-12}


_ELIDED = re.compile(r"(float|double)\[([0-9,]+)\] (\w+) = \{\.\.\.\}")


def fill_in_weights(text: str) -> str:
    """The text with numbers for each weight written ``float[4,8] w = {...}``, by its name."""

    def numbers(match: re.Match[str]) -> str:
        size = math.prod(int(dim) for dim in match[2].split(","))
        generator = np.random.default_rng(zlib.crc32(match[3].encode()))
        elements = ", ".join(f"{x:.6f}" for x in generator.standard_normal(size))
        return f"{match[1]}[{match[2]}] {match[3]} = {{{elements}}}"

    return _ELIDED.sub(numbers, text)


def module_from(text: str) -> Module:
    """A module as a frontend hands it over: parsed, stamped, shapes inferred, no Constant nodes."""
    text = fill_in_weights(textwrap.dedent(text).strip())
    module = parse(text if text.startswith("<") else HEADER + text)
    stamp_origins(module.graph)
    lift = common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    lift(module.model)
    run_passes(module, [])
    return module


def run_pass(
    step: Pass, module: Module, context: PassContext | None = None
) -> tuple[Module, PassRecord]:
    """The module after the pass (the given one stays as it is), and what the pass recorded."""
    after, records = run_passes(module.clone(), [step], context=context)
    return after, records[0]


def check_rewrite(
    step: Pass,
    before: str,
    after: str,
    sizes: Sequence[Mapping[str, int]] = SIZE_SETS,
    context: PassContext | None = None,
) -> PassRecord:
    """The pass turns one graph into the other, with the same numbers and no more work."""
    original, expected = module_from(before), module_from(after)
    result, record = run_pass(step, original, context)
    assert structural_diff(expected, result) == ""
    check_numbers(step.numerics, original, result, sizes)
    check_cost(original, result, sizes)
    return record


def check_declines(step: Pass, text: str, reason: str) -> PassRecord:
    """The pass leaves the graph as it is, and says why."""
    original = module_from(text)
    result, record = run_pass(step, original)
    assert structural_diff(original, result) == ""
    assert reason in "\n".join(miss.reason for miss in record.misses)
    return record


def check_ignores(step: Pass, text: str) -> None:
    """The pass leaves the graph as it is: it is not even nearly what the pass looks for."""
    original = module_from(text)
    result, record = run_pass(step, original)
    assert structural_diff(original, result) == ""
    assert record.misses == ()


def check_numbers(
    numerics: Numerics,
    before: Module,
    after: Module,
    sizes: Sequence[Mapping[str, int]] = SIZE_SETS,
) -> None:
    """Both modules give the same outputs on random inputs, as closely as ``numerics`` promises.

    Outputs with valid positions are compared there, and must be zero elsewhere.
    """
    masks = {
        positions.output: positions.mask
        for positions in after.valid_positions
        if not positions.per_row
    }
    for seed, given in enumerate(sizes):
        inputs = random_inputs(before, given, seed)
        expected, found = run_module(before, inputs), run_module(after, inputs)
        assert expected.keys() == found.keys()
        for name in expected:
            if name in masks:
                padding = inputs[masks[name]] == 0
                assert not found[name][padding].any(), f"{name}: padding is not zero"
                expected[name][padding] = 0
            assert_close(numerics, found[name], expected[name], f"{name} at {dict(given)}")


def assert_close(numerics: Numerics, found: Array, expected: Array, where: str) -> None:
    """Equal to the bit, or up to rounding relative to the largest element.

    An approximate pass promises no tolerance: its own tests do. Here its results are to be of the
    same kind, and more like the original's than not.
    """
    assert found.shape == expected.shape, where
    assert found.dtype == expected.dtype, where
    if numerics is Numerics.APPROXIMATE and expected.dtype.kind == "f":
        assert relative_error(found, expected) < APPROXIMATE_ERROR, where
        return
    if numerics is Numerics.EXACT or expected.dtype.name not in RELATIVE_TOLERANCE:
        assert found.tobytes() == expected.tobytes(), where
        return
    tolerance = RELATIVE_TOLERANCE[expected.dtype.name]
    largest = float(np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0))
    np.testing.assert_allclose(
        found, expected, rtol=tolerance, atol=tolerance * largest, err_msg=where
    )


def relative_error(found: Array, expected: Array) -> float:
    """Length of the difference over length of the expected array; infinite if not finite."""
    difference = found.astype(np.float64) - expected.astype(np.float64)
    if not np.isfinite(difference).all():
        return math.inf
    length = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(difference)) / (length or 1.0)


def check_cost(
    before: Module, after: Module, sizes: Sequence[Mapping[str, int]] = SIZE_SETS
) -> None:
    """The graph after costs no more FLOPs than the graph before."""
    for given in sizes:
        flops_before, _ = graph_cost(before).at(given)
        flops_after, _ = graph_cost(after).at(given)
        assert flops_after <= flops_before, f"more work at {dict(given)}"


def docstring_graphs(pass_type: type[Pass]) -> tuple[str, str]:
    """The graphs under ``Before::`` and ``After::`` in a pass's docstring."""
    blocks = dict(
        re.findall(
            r"^(Before|After)[^\n]*::\n\n((?:(?:    .*)?\n)*(?:    .*))",
            textwrap.dedent("    " + (pass_type.__doc__ or "")),
            flags=re.MULTILINE,
        )
    )
    return textwrap.dedent(blocks["Before"]), textwrap.dedent(blocks["After"])


def docstring_options(pass_type: type[Pass]) -> Pass:
    """The pass as its docstring's ``Before, for ``name{...}``::`` has it; else without options."""
    given = re.search(r"^    Before, for ``(.*)``::$", pass_type.__doc__ or "", flags=re.MULTILINE)
    return parse_pass_list(given[1])[0] if given else pass_type()


def record_of(name: str, records: Sequence[PassRecord]) -> PassRecord:
    """The record of a pass that ran once."""
    (found,) = (record for record in records if record.name.partition("{")[0] == name)
    return found
