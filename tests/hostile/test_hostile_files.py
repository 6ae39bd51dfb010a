"""The program on every file of the corpus, and what the limits of the importer let through."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import onnx
import pytest

from dechaff.frontend import from_onnx
from tests.frontend.onnx_models import refusal
from tests.hostile.corpus import PLAIN, parse
from tests.hostile.graphs import functions
from tests.hostile.runner import CORPUS

ROOT = pathlib.Path(__file__).resolve().parents[2]
SLOW = {
    "chain-of-a-thousand-nodes",
    "endless-loop",
    "endless-loop-over-constants",
    "endless-loop-until-told",
    "file-of-holes",
    "loop-that-piles-up-its-results",
    "million-nodes",
}
"""Files that take seconds; ``make hostile`` runs them too."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What was wrong with the run on each file; the runs share a process that has no threads."""
    path = tmp_path_factory.mktemp("hostile") / "ended.json"
    names = [item.name for item in CORPUS if item.name not in SLOW]
    command = [sys.executable, "-m", "tests.hostile.runner", "--json", str(path), *names]
    subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL, timeout=300)
    found: dict[str, list[str]] = json.loads(path.read_text())
    return found


def test_the_corpus_is_large_and_its_names_differ() -> None:
    names = {item.name for item in CORPUS}
    assert len(names) == len(CORPUS) >= 40
    assert names > SLOW


@pytest.mark.parametrize("name", [item.name for item in CORPUS if item.name not in SLOW])
def test_a_hostile_file_ends_as_documented(name: str, ended: dict[str, list[str]]) -> None:
    assert ended[name] == []


def test_functions_are_counted_where_they_are_called() -> None:
    calls = [f"a = local.f{i + 1} (x) y = local.f{i + 1} (a)" for i in range(4)]
    assert len(from_onnx(functions([*calls, "y = Neg (x)"])).graph) == 16
    calls = [f"a = local.f{i + 1} (x) y = local.f{i + 1} (a)" for i in range(30)]
    assert "operations, functions expanded" in refusal(functions([*calls, "y = Neg (x)"]))


@pytest.mark.parametrize("size", ["B*4 + 1", "B**2", "floor(B/2)", "max(B, 7)", "batch size"])
def test_sizes_that_exporters_write_are_read(size: str) -> None:
    model = parse()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = size
    assert from_onnx(model).graph.inputs[0].shape is not None


@pytest.mark.parametrize("size", ["9**9**9", "B**2**2", "2**99", "B" * 300])
def test_sizes_that_compute_for_ever_are_refused(size: str) -> None:
    model = parse()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = size
    assert "no formula of sizes" in refusal(model)


def test_two_weights_of_one_name_are_refused() -> None:
    model = parse(PLAIN)
    model.graph.initializer.append(model.graph.initializer[0])
    assert "two weights have the name 'w'" in refusal(model)


def test_names_of_all_languages_are_read() -> None:
    model: onnx.ModelProto = parse()
    model.graph.node[0].input[1] = model.graph.initializer[0].name = "gewicht_ß_权重"
    assert "gewicht_ß_权重" in from_onnx(model).graph.initializers
