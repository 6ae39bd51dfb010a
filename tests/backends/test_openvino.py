from __future__ import annotations

import itertools
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dechaff.backends.openvino.session as openvino_session
import dechaff.backends.running as running
from dechaff.backends import (
    OpenVinoSession,
    Session,
    SessionSettings,
    lower,
    runs_in_openvino,
    start_session,
)
from dechaff.ir import Module, UsageError
from tests.backends.test_varlen_attention import ALL_KEYS, SEPARATE, module_from, tokens_for


def attention(causal: int) -> Module:
    return module_from(ALL_KEYS.format(tokens=SEPARATE[0], operands="", causal=causal))


BOTH = {causal: attention(causal) for causal in (0, 1)}
REFERENCES = {causal: Session(module, graph_optimizations=False) for causal, module in BOTH.items()}
LOWERED = {causal: lower(module, "openvino") for causal, module in BOTH.items()}
IN_OPENVINO = {causal: OpenVinoSession(module) for causal, module in LOWERED.items()}
IN_ONNXRUNTIME = {causal: Session(module) for causal, module in LOWERED.items()}


def check(lengths: list[int], causal: int) -> None:
    starts = np.array(list(itertools.accumulate(lengths, initial=0)), np.int64)
    tokens = tokens_for(BOTH[causal], sum(lengths)) | {"starts": starts}
    expected = REFERENCES[causal].run(tokens)["y"]
    found = IN_OPENVINO[causal].run(tokens)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if sum(lengths):
        found = IN_ONNXRUNTIME[causal].run(tokens)["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize(
    "lengths",
    [[4], [1], [2, 2, 2], [3, 1, 0, 5], [0, 0], [0, 7], [*range(1, 18)], [5] * 9 + [1]],
    ids=str,
)
def test_groups_of_rows_agree_with_the_reference(lengths: list[int], causal: int) -> None:
    check(lengths, causal)


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=20), causal=st.integers(0, 1))
def test_any_lengths(lengths: list[int], causal: int) -> None:
    check(lengths, causal)


def test_batch_mates_do_not_matter() -> None:
    tokens = tokens_for(BOTH[0], 12)
    alone = {name: array[:3] for name, array in tokens.items()}
    mates = IN_OPENVINO[0].run(tokens | {"starts": np.array([0, 3, 4, 12])})["y"][:3]
    single = IN_OPENVINO[0].run(alone | {"starts": np.array([0, 3])})["y"]
    np.testing.assert_allclose(mates, single, rtol=1e-5, atol=1e-6)


def test_results_are_not_overwritten_by_the_next_run() -> None:
    first = tokens_for(BOTH[0], 3) | {"starts": np.array([0, 3])}
    second = {name: array + 1 if name != "starts" else array for name, array in first.items()}
    kept = IN_OPENVINO[0].run(first)["y"]
    copy = kept.copy()
    IN_OPENVINO[0].run(second)
    np.testing.assert_array_equal(kept, copy)


def test_a_session_names_inputs_and_outputs_and_gives_those_wanted() -> None:
    assert IN_OPENVINO[0].input_names == ["q", "k", "v", "starts"]
    assert IN_OPENVINO[0].output_names == ["y"]
    tokens = tokens_for(BOTH[0], 2) | {"starts": np.array([0, 2])}
    assert IN_OPENVINO[0].run(tokens, []) == {}


def test_a_module_lowered_for_openvino_runs_there_and_without_it_in_onnx_runtime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert runs_in_openvino(LOWERED[0])
    assert not runs_in_openvino(lower(BOTH[0]))
    assert isinstance(start_session(LOWERED[0]), OpenVinoSession)
    assert isinstance(start_session(lower(BOTH[0])), Session)
    monkeypatch.setattr(running, "has_openvino", lambda: False)
    assert isinstance(start_session(LOWERED[0]), Session)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_session, "has_openvino", lambda: False)
    with pytest.raises(UsageError, match=r"pip install 'dechaff\[openvino\]'"):
        OpenVinoSession(LOWERED[0])


def test_affinity_is_refused() -> None:
    with pytest.raises(UsageError, match="leave affinity out"):
        OpenVinoSession(LOWERED[0], settings=SessionSettings(1, affinity=(0,)))


def test_no_file_is_left_behind(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    OpenVinoSession(LOWERED[0])
    assert not list(tmp_path.iterdir())
