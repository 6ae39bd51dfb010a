"""Generated code: it is in the trace of a run that generates some, and the page shows it."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

import dechaff
from dechaff.backends.tvm.generated_kernels import generated_kernels
from dechaff.trace_file import read_trace
from tests.dechaff.examples import linear
from tests.dechaff.viewer.browsing import Pages

CUDA = """
#include <mma.h>
__device__ int helper() { return 1; }
extern "C" __global__ void __launch_bounds__(256) add_kernel(float* __restrict__ x);
extern "C" __global__ void __launch_bounds__(256) add_kernel(float* __restrict__ x) {
  if (x[0] < 1) {
    x[0] = helper();
  }
}

extern "C" __global__ void mul_kernel(float* x) {
  x[0] = 2;
}
"""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("run") / "run.dechaff"
    dechaff.optimize(linear().model, target="llvm", trace=path, progress=False)
    return read_trace(path)


def test_cuda_source_is_cut_into_its_kernels() -> None:
    found = generated_kernels(CUDA)
    assert list(found) == ["add_kernel", "mul_kernel"]
    assert found["add_kernel"].count("\n") == 5
    assert found["add_kernel"].endswith("  }\n}\n")


def test_the_trace_of_a_compiled_model_holds_its_kernels(trace: dict[str, Any]) -> None:
    code = trace["steps"][-1]["code"]
    assert code["target"].startswith("llvm ")
    assert code["omitted"] == 0
    kernels = dict(code["kernels"])
    assert any("matmul" in name for name in kernels)
    assert all(text.startswith("define ") for text in kernels.values())


def test_the_trace_of_a_model_for_a_runtime_holds_none(tmp_path: pathlib.Path) -> None:
    dechaff.optimize(linear().model, trace=tmp_path / "run.dechaff", progress=False)
    assert "code" not in read_trace(tmp_path / "run.dechaff")["steps"][-1]


def test_the_page_shows_each_kernel(pages: Pages, trace: dict[str, Any]) -> None:
    page = pages.open(trace, f"pass={len(trace['steps'])}")
    page.click('[data-view="code"]')
    kernels = trace["steps"][-1]["code"]["kernels"]
    assert page.locator("#text details.kernel").count() == len(kernels)
    name, text = kernels[0]
    first = page.locator("#text details.kernel").first
    assert name in first.locator("summary").inner_text()
    assert first.locator("pre").inner_text().rstrip("\n") == text.rstrip("\n")
    assert "view=code" in page.url


def test_a_step_without_code_offers_none_and_shows_its_text(
    pages: Pages, trace: dict[str, Any]
) -> None:
    page = pages.open(trace, "pass=0&view=code")
    assert not page.locator('[data-view="code"]').is_visible()
    assert page.locator("#text .line").count() > 0
