"""Dense layers by a library: on a CPU numpy's, chosen by the setting or as it was measured."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import dechaff
from dechaff.backends.tvm import ProductChoice, choose_products, compile_module, resolve_target
from dechaff.backends.tvm.product_choice import Product
from dechaff.backends.tvm.tuning.log_folder import TargetLog
from dechaff.backends.tvm.tuning.logs import merge, prune, summaries
from dechaff.backends.tvm.tuning.product_measurement import products_of
from dechaff.backends.tvm.tuning.product_records import (
    PRODUCTS,
    MeasuredProduct,
    add_products,
    choice_of,
    read_products,
)
from dechaff.ir import Module, UsageError, parse
from tests.dechaff.examples import numbers
from tests.model_runner import random_inputs, run_module

from .compiling import compare_outputs

LAYERS = f"""
<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>
layers (float[B,S,8] x) => (float[B,S,6] y, float[B,S,6] z, float[B,S,6] both)
<float[8,6] w = {numbers(8, 6)}, float[6] b = {numbers(6)}, float[6,6] v = {numbers(6, 6)}>
{{
    product = MatMul (x, w)
    y = dechaff.BiasGelu <approximate = "none"> (product, b)
    second = MatMul (y, v)
    sum = Add (second, b)
    z = Gelu <approximate = "tanh"> (sum)
    third = MatMul (z, v)
    turned = Gelu (third)
    both = Add (third, turned)
}}
"""
LIBRARY = ProductChoice(default="library")
LAYER = Product(8, 6, "gelu", has_bias=True, dtype="float32")


@pytest.fixture(scope="module")
def module() -> Module:
    return parse(LAYERS)


def test_layers_by_a_library_give_the_same_numbers_at_every_size(module: Module) -> None:
    compiled = compile_module(module, resolve_target("llvm"), products=LIBRARY)
    assert compiled.library_calls == 3
    for sizes in ({"B": 2, "S": 5}, {"B": 1, "S": 1}, {"B": 3, "S": 17}):
        inputs = random_inputs(module, sizes)
        compare_outputs(run_module(module, inputs), compiled.run(inputs), 1e-5)


def test_the_whole_layer_is_one_product_and_what_is_read_twice_is_kept(module: Module) -> None:
    found = products_of(module, resolve_target("llvm"), {"B": 2, "S": 5})
    assert found == {
        LAYER: 10,
        Product(6, 6, "gelu_tanh", has_bias=True, dtype="float32"): 10,
        Product(6, 6, dtype="float32"): 10,
    }


def test_without_a_choice_no_library_is_called(module: Module) -> None:
    assert compile_module(module, resolve_target("llvm")).library_calls == 0


def test_a_library_is_chosen_for_the_layers_where_it_was_faster(module: Module) -> None:
    choice = ProductChoice(measured={LAYER: "library"})
    assert compile_module(module, resolve_target("llvm"), products=choice).library_calls == 1


def measured(generated: float, library: float, tokens: int) -> MeasuredProduct:
    return MeasuredProduct(LAYER, {"T": tokens}, tokens, generated, library, "numpy 2.0")


def test_the_measurement_at_the_nearest_sizes_counts() -> None:
    records = [measured(1.0, 2.0, tokens=16), measured(2.0, 1.0, tokens=1024)]
    assert choice_of(records, {"T": 20}).choose(LAYER) == "generated"
    assert choice_of(records, {"T": 800}).choose(LAYER) == "library"
    assert choice_of([], {"T": 800}).choose(LAYER) == "generated"


def test_a_library_within_the_noise_is_not_chosen() -> None:
    assert measured(1.0, 0.97, tokens=1).faster == "generated"
    assert measured(1.0, 0.90, tokens=1).faster == "library"


@pytest.fixture
def log(tmp_path: pathlib.Path) -> TargetLog:
    opened = TargetLog.at(tmp_path / "log", resolve_target("llvm"))
    add_products(opened.folder, [measured(2.0, 1.0, tokens=16)])
    return opened


def test_measurements_are_kept_in_the_log_and_replaced(log: TargetLog) -> None:
    add_products(log.folder, [measured(1.0, 2.0, tokens=16), measured(3.0, 1.0, tokens=32)])
    assert read_products(log.folder) == [
        measured(1.0, 2.0, tokens=16),
        measured(3.0, 1.0, tokens=32),
    ]


def test_measurements_outlive_merging_and_pruning(log: TargetLog, tmp_path: pathlib.Path) -> None:
    merge(tmp_path / "all", [tmp_path / "log"])
    prune(tmp_path / "all")
    (summary,) = summaries(tmp_path / "all")
    assert summary.products == (measured(2.0, 1.0, tokens=16),)


def test_a_broken_list_is_refused(log: TargetLog) -> None:
    (log.folder / PRODUCTS).write_text("{")
    with pytest.raises(UsageError, match=r"products\.json: not a list of measured products"):
        read_products(log.folder)


def test_a_log_chooses_and_what_it_lacks_is_measured(
    log: TargetLog, tmp_path: pathlib.Path, module: Module
) -> None:
    target, sizes = resolve_target("llvm"), {"B": 2, "S": 8, "T": 16}
    from_log = choose_products(module, target, sizes=sizes, tuning_log=tmp_path / "log")
    assert from_log.measured == {LAYER: "library"}
    complete = choose_products(
        module, target, sizes=sizes, tuning_log=tmp_path / "log", measure=True
    )
    assert complete.measured[LAYER] == "library"
    assert len(complete.measured) == 3


def test_optimize_says_how_many_products_call_the_library(
    module: Module, tmp_path: pathlib.Path
) -> None:
    optimized = dechaff.optimize(module.model, target="llvm", products="library", progress=False)
    assert "3 matrix products call numpy's BLAS" in str(optimized.report)
    optimized.save(tmp_path / "layers.so")
    x = np.ones((2, 3, 8), np.float32)
    results = dechaff.load(tmp_path / "layers.so").run({"x": x})
    compare_outputs(run_module(module, {"x": x}), results, 1e-5)


def test_loading_a_library_registers_what_it_calls() -> None:
    program = (
        "import dechaff.backends.tvm.compiled_model, tvm; tvm.get_global_func('dechaff.linear')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_mode_that_does_not_exist_is_refused(module: Module) -> None:
    with pytest.raises(UsageError, match="choose auto, measured, generated, library"):
        dechaff.optimize(module.model, target="llvm", products="cublas", progress=False)


def test_products_are_measured_where_the_device_is(module: Module) -> None:
    from dechaff.backends.tvm import device_exists

    target = '{"kind": "cuda", "arch": "sm_80"}'
    if device_exists(resolve_target(target)):
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match="there is no cuda device here"):
        dechaff.optimize(module.model, target=target, products="measured", progress=False)
