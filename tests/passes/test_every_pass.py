"""What holds for every pass there is."""

from __future__ import annotations

import inspect
import pathlib
import types

import numpy as np
import pytest

import dechaff.passes
from dechaff.calibration import Calibration
from dechaff.passes import PASSES, PIPELINES, Numerics, Pass, PassContext
from tests.passes.rewrite_checks import check_rewrite, docstring_graphs, docstring_options

PASS_FOLDER = pathlib.Path(inspect.getfile(dechaff.passes)).parent
TOKENS = types.SimpleNamespace(unknown=0, special={1}, used=set())
CALIBRATION = Calibration(
    [{"x": np.array([[-4, 4]], np.float32), "ids": np.array([[3]])}],
    "test",
    TOKENS,  # type: ignore[arg-type]
)
"""For the docstrings of passes that look at data: ``x`` covers -4 .. 4, ``ids`` is token 3."""
TEST_FOLDER = pathlib.Path(__file__).parent

each_pass = pytest.mark.parametrize("pass_type", PASSES, ids=lambda pass_type: pass_type.name)


def defined_passes() -> list[type[Pass]]:
    """Every concrete pass class, found by looking at classes and not at the list of passes."""
    pending, found = list(Pass.__subclasses__()), []
    while pending:
        pass_type = pending.pop()
        pending += pass_type.__subclasses__()
        if pass_type.__module__.startswith("dechaff.") and not inspect.isabstract(pass_type):
            found.append(pass_type)
    return found


def test_each_pass_class_is_listed_exactly_once() -> None:
    def key(pass_type: type[Pass]) -> str:
        return pass_type.__name__

    assert sorted(PASSES, key=key) == sorted(defined_passes(), key=key)


def test_no_two_passes_share_a_name() -> None:
    names = [pass_type.name for pass_type in PASSES]
    assert len(set(names)) == len(names)


@each_pass
def test_name_is_that_of_its_file_and_of_its_test_file(pass_type: type[Pass]) -> None:
    file_name = pass_type.name.replace("-", "_")
    assert pathlib.Path(inspect.getfile(pass_type)).name == f"{file_name}.py"
    assert (PASS_FOLDER / f"{file_name}.py").exists()
    assert (TEST_FOLDER / f"test_{file_name}.py").exists()


@each_pass
def test_numerics_are_declared(pass_type: type[Pass]) -> None:
    assert isinstance(pass_type.numerics, Numerics)


@each_pass
def test_passes_that_must_run_earlier_exist(pass_type: type[Pass]) -> None:
    assert set(pass_type.after) <= {other.name for other in PASSES}


@each_pass
def test_docstring_shows_what_the_pass_does(pass_type: type[Pass]) -> None:
    before, after = docstring_graphs(pass_type)
    step = docstring_options(pass_type)
    record = check_rewrite(step, before, after, context=PassContext(CALIBRATION))
    assert record.changed


def test_default_pipeline_keeps_the_answers() -> None:
    assert Numerics.APPROXIMATE not in {step.numerics for step in PIPELINES["default"]}


def test_default_pipeline_is_in_an_order_its_passes_accept() -> None:
    names = [step.name for step in PIPELINES["default"]]
    for position, step in enumerate(PIPELINES["default"]):
        for earlier in step.after:
            assert earlier in names[:position]
