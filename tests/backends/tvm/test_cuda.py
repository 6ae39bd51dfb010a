"""Code for GPUs, compiled where nvcc is, and read: tensor cores, float32 sums, weights as given."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import tempfile

import numpy as np
import pytest
import tvm
from tvm import relax

from benchmarks.coverage.checking import capture
from benchmarks.coverage.families import Family, one_step
from dechaff.backends.tvm import compile_module, cuda_compilation, resolve_target
from dechaff.backends.tvm.compiled_model import CompiledModel
from dechaff.backends.tvm.installation import has_nvcc
from dechaff.backends.tvm.relax_module import to_relax
from dechaff.ir import Module, UsageError, parse
from dechaff.passes import parse_pass_list, run_passes

needs_nvcc = pytest.mark.skipif(not has_nvcc(), reason="no nvcc on PATH: CUDA is not compiled here")

_TEXT = {"vocab_size": 500, "num_hidden_layers": 1, "pad_token_id": 0}
FAMILIES = {
    "BERT-base": Family(
        "BERT-base",
        "bert",
        "encoder",
        {**_TEXT, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "MiniLM": Family(
        "MiniLM",
        "bert",
        "encoder",
        {**_TEXT, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "Llama": Family(
        "Llama",
        "llama",
        "decoder",
        {
            **_TEXT,
            "hidden_size": 512,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "intermediate_size": 1024,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "ViT": Family(
        "ViT",
        "vit",
        "vision",
        {
            "hidden_size": 192,
            "num_hidden_layers": 1,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "image_size": 32,
            "patch_size": 16,
        },
    ),
}
_LLAMA = FAMILIES["Llama"]
FAMILIES["Llama step"] = one_step(
    dataclasses.replace(_LLAMA, sizes={**_LLAMA.sizes, "num_hidden_layers": 2})
)
IN_CI = (("BERT-base", "sm_80"), ("MiniLM", "sm_90"), ("Llama", "sm_90"), ("ViT", "sm_80"))
OTHERS = (("BERT-base", "sm_90"), ("MiniLM", "sm_80"), ("Llama", "sm_80"), ("ViT", "sm_90"))
MODELS = [
    *(pytest.param(*pair, id="-".join(pair)) for pair in IN_CI),
    *(pytest.param(*pair, id="-".join(pair), marks=pytest.mark.slow) for pair in OTHERS),
]
"""Each with the architecture that it is compiled for; the slow tests take the other one."""


_NARROW_SUMS = re.compile(r"wmma::accumulator,[^>]*\bhalf\b|mma\.sync[^\"]*\.f16\.f16\.f16\.f16")


@functools.cache
def in_float16(name: str) -> Module:
    with tempfile.TemporaryDirectory() as folder:
        module, _ = capture(FAMILIES[name], "torch", pathlib.Path(folder))
    optimized, _ = run_passes(module, parse_pass_list("default,convert-precision"))
    return optimized


@functools.cache
def compiled(name: str, arch: str) -> CompiledModel:
    return compile_module(in_float16(name), resolve_target(f'{{"kind": "cuda", "arch": "{arch}"}}'))


def kernels(source: str) -> dict[str, str]:
    """Device functions of CUDA source, by name."""
    parts = re.split(r'(?=extern "C" __global__)', source)[1:]
    named = {}
    for part in parts:
        if part.partition("{")[0].find(";") >= 0:  # a declaration; the function comes later
            continue
        found = re.search(r"(\w+)\(", re.sub(r"__launch_bounds__\([^)]*\)", "", part))
        assert found is not None
        named[found[1]] = part
    return named


@needs_nvcc
@pytest.mark.parametrize(("name", "arch"), MODELS)
def test_every_product_uses_tensor_cores_and_sums_in_float32(name: str, arch: str) -> None:
    products = {
        kernel: text
        for kernel, text in kernels(compiled(name, arch).source()).items()
        if re.search("matmul|dense|attention|conv", kernel)
    }
    assert any("attention" in kernel for kernel in products)
    assert len(products) >= 4
    without = [kernel for kernel, text in products.items() if not re.search("mma", text)]
    assert without == []
    narrow = [kernel for kernel, text in products.items() if _NARROW_SUMS.search(text)]
    assert narrow == []


@needs_nvcc
@pytest.mark.parametrize(("name", "arch"), MODELS)
def test_nvcc_compiles_what_was_generated(name: str, arch: str) -> None:
    source = compiled(name, arch).source()
    with resolve_target(f'{{"kind": "cuda", "arch": "{arch}"}}'):
        assert cuda_compilation.compile_cuda(source).startswith(b"\x7fELF")


@needs_nvcc
def test_a_convolution_on_which_the_rule_for_products_fails_is_compiled() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 23]>
        g (float16[B,3,30,30] x, float16[32,3,16,16] w) => (float16[B,32,2,2] y)
        { y = Conv <strides = [14, 14]> (x, w) }
    """
    model = compile_module(parse(text), resolve_target('{"kind": "cuda", "arch": "sm_80"}'))
    assert "__global__" in model.source()


@needs_nvcc
@pytest.mark.parametrize(("name", "arch"), IN_CI[1:2])
def test_without_a_gpu_the_model_is_compiled_and_says_what_is_missing(
    name: str, arch: str, tmp_path: pathlib.Path
) -> None:
    if tvm.cuda(0).exist:
        pytest.skip("this machine has a GPU")
    model = compiled(name, arch)
    with pytest.raises(UsageError, match="no CUDA GPU is found here: save it and load it"):
        model.run({port.name: np.zeros(1) for port in model.signature.inputs})
    model.export(tmp_path / "model.so")
    assert (tmp_path / "model.so").stat().st_size > 100_000


def test_a_decode_step_runs_by_the_kernels_that_split_the_keys() -> None:
    lowered = to_relax(in_float16("Llama step"), "cuda", "sm_90")
    assert lowered.kernels["Attention"] == 2


@pytest.mark.parametrize("name", ["MiniLM", "Llama", "ViT"])
def test_nothing_is_read_back_in_the_middle_of_a_run(name: str) -> None:
    found: list[str] = []

    def visit(node: object) -> None:
        if isinstance(node, tvm.ir.Call):
            found.append(getattr(node.op, "name", ""))

    lowered = to_relax(in_float16(name), "cuda", "sm_90").module
    relax.analysis.post_order_visit(lowered["main"], visit)
    assert found
    assert "relax.tensor_to_shape" not in found


def turned(module: Module) -> list[bool]:
    """For each matrix that is turned at run time, before kernels are fused: if it is constant."""
    target = resolve_target('{"kind": "cuda", "arch": "sm_90"}')
    transform = relax.transform
    passes = [
        transform.DeadCodeElimination(),
        transform.LegalizeOps(),
        transform.FoldConstant(),
        transform.DeadCodeElimination(),
    ]
    with target:
        plain = tvm.transform.Sequential(passes)(to_relax(module, "cuda", "sm_90").module)
    found: list[bool] = []

    def visit(node: object) -> None:
        if not isinstance(node, tvm.ir.Call) or getattr(node.op, "name", "") != "relax.call_tir":
            return
        if "transpose" in node.args[0].name_hint:
            operands = node.args[1].fields
            found.append(any(isinstance(item, tvm.ir.GenericConst) for item in operands))

    relax.analysis.post_order_visit(plain["main"], visit)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_no_weight_is_turned_at_run_time(name: str) -> None:
    assert not any(turned(in_float16(name)))


def test_a_weight_is_turned_before_the_build_and_an_input_is_not() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[B,4] x, float[B,4] k) => (float[B,3] y, float[B,B] z)
        <float[3,4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
        {
            w_turned = Transpose <perm = [1, 0]> (w)
            y = MatMul (x, w_turned)
            k_turned = Transpose <perm = [1, 0]> (k)
            z = MatMul (x, k_turned)
        }
    """
    assert turned(parse(text)) == [False]
