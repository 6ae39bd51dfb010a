"""What calls cuBLAS and CUTLASS: what is emitted, the fastest way, what is compiled."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from dechaff.backends.tvm import ProductChoice, cutlass_products, launch_timing
from dechaff.backends.tvm.installation import has_nvcc
from dechaff.backends.tvm.relax_module import to_relax
from dechaff.ir import parse
from dechaff.ir.cache_folder import FOLDER_VARIABLE

LIBRARY = ProductChoice(default="library")
LAYER = f"""
<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>
layer (float16[B,8] x) => (float16[B,8] y)
<float16[8,8] w = {{{", ".join(["15360"] * 64)}}}, float16[8] b = {{{", ".join(["15360"] * 8)}}}>
{{
    product = MatMul (x, w)
    REST
}}
"""
BIASED = "y = dechaff.BiasGelu <approximate = {}> (product, b)"


def calls(text: str, arch: str = "sm_90") -> str:
    return str(to_relax(parse(LAYER.replace("REST", text)), "cuda", arch, LIBRARY).module.script())


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutlass_products, "compile_library", lambda *_: pathlib.Path("dense.so"))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("formula", "name"), [("none", "linear_gelu"), ("tanh", "linear_gelu_tanh")]
)
def test_bias_and_gelu_are_in_the_call_of_the_product(formula: str, name: str) -> None:
    text = calls(BIASED.format(f'"{formula}"'))
    assert f'"dechaff.{name}"' in text
    assert "gelu(" not in text.replace(name, "")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("text", "arch"),
    [
        pytest.param(BIASED.format('"none"'), "sm_80", id="another architecture"),
        pytest.param("y = Gelu (product)", "sm_90", id="no bias"),
    ],
)
def test_elsewhere_gelu_is_a_kernel_after_the_product(text: str, arch: str) -> None:
    script = calls(text, arch)
    assert '"dechaff.linear"' in script
    assert "linear_gelu" not in script


def test_where_nothing_is_compiled_gelu_is_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutlass_products, "compile_library", lambda *_: None)
    assert "linear_gelu" not in calls(BIASED.format('"none"'))


@pytest.mark.parametrize(
    ("times", "place"),
    [
        ([5.0, 4.0, 3.0], 2),
        ([5.0, 4.95], 0),  # within the noise the first proposal is kept
        ([None, 4.0, 3.99], 2),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_fastest_way_that_runs_is_taken(
    monkeypatch: pytest.MonkeyPatch, times: list[float | None], place: int | None
) -> None:
    left = iter(times)
    monkeypatch.setattr(launch_timing, "_microseconds", lambda _: next(left))
    ways: list[Callable[[], bool]] = [lambda: True] * len(times)
    assert launch_timing.fastest(ways) == place


def test_measuring_is_allowed_within_only() -> None:
    assert not launch_timing.may_measure()
    with launch_timing.measuring_launches():
        assert launch_timing.may_measure()
    assert not launch_timing.may_measure()


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    cutlass_products.compile_library.cache_clear()
    return tmp_path


def put_nvcc(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program ``nvcc`` that does this."""
    program = folder / "bin" / "nvcc"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_the_library_is_compiled_once_per_dtype_and_activation(
    cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvcc(
        cache,
        monkeypatch,
        f'echo "$@" >> {cache}/calls\nwhile [ "$1" != -o ]; do shift; done\n> "$2"',
    )
    found = {
        cutlass_products.compile_library(dtype, activation)
        for _ in range(2)
        for dtype in ("float16", "bfloat16")
        for activation in ("gelu", "gelu_tanh")
    }
    assert len(found) == 4
    assert all(path is not None and path.exists() for path in found)
    said = (cache / "calls").read_text().splitlines()
    assert len(said) == 4
    assert "-DELEMENT=cutlass::half_t" in said[0]
    assert "-DP0=2.3016471605033737f" in said[0]
    cutlass_products.compile_library.cache_clear()
    cutlass_products.compile_library("float16", "gelu")  # another process finds the file
    assert len((cache / "calls").read_text().splitlines()) == 4


def test_a_compiler_that_fails_is_told_once_and_leaves_nothing(
    cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvcc(cache, monkeypatch, "echo 'fatal error: no such header' >&2; exit 1")
    with pytest.warns(UserWarning, match="could not compile CUTLASS: fatal error: no such header"):
        assert cutlass_products.compile_library("float16", "gelu") is None
    assert cutlass_products.compile_library("float16", "gelu") is None
    assert not list((cache / "kernels").glob("*.so"))


@pytest.mark.usefixtures("cache")
def test_without_a_compiler_there_is_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutlass_products, "has_nvcc", lambda: False)
    assert cutlass_products.compile_library("float16", "gelu") is None


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
@pytest.mark.skipif(not has_nvcc(), reason="no nvcc on PATH: CUDA is not compiled here")
def test_cutlass_compiles_with_every_tile() -> None:
    path = cutlass_products.compile_library("bfloat16", "gelu_tanh")
    assert path is not None
    names = path.read_bytes()
    assert all(f"dense_{tile}".encode() in names for tile in cutlass_products._TILES)
