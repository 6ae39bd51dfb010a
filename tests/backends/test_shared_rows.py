"""Rows of a batch in several requests of OpenVINO, and what they give in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from dechaff.backends import OpenVinoSession, Session, SessionSettings, lower, start_session
from dechaff.backends.openvino import SharedRows
from dechaff.backends.openvino.shared_rows import deal
from dechaff.ir import Module, UsageError
from tests.model_runner import Array
from tests.passes.test_remove_padding import MASKS, layer, random_states, remove_padding
from tests.passes.test_row_independence import rounded

TWO = SessionSettings(2, requests=2)


@pytest.fixture(scope="module")
def packed() -> Module:
    return remove_padding(layer())[1]


@pytest.fixture(scope="module")
def lowered(packed: Module) -> Module:
    return lower(packed, "openvino")


@pytest.fixture(scope="module")
def shared(lowered: Module) -> SharedRows:
    return SharedRows(lowered, settings=TWO)


class Side(OpenVinoSession):
    """Notes how many rows each request has."""

    rows: Sequence[int] = ()

    def run_side_by_side(
        self, batches: Sequence[Mapping[str, Array]], outputs: Sequence[str] | None = None
    ) -> list[dict[str, Array]]:
        self.rows = [len(batch["x"]) for batch in batches]
        return super().run_side_by_side(batches, outputs)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_requests_give_what_the_whole_batch_gives(
    packed: Module, shared: SharedRows, mask: list[list[int]]
) -> None:
    keep = np.array(mask * 2, bool)
    inputs = {"x": random_states(keep), "mask": keep}
    expected = Session(packed, graph_optimizations=False).run(inputs)
    found = shared.run(inputs)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-5, atol=1e-6)
    assert shared.run(inputs, []) == {}


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([4, 4], [1, 1]),
        ([2, 4, 4, 2], [2, 2]),
        ([4], []),  # a row is not cut
        ([4, 4, 4], []),  # one request would have twice the work of the other
        ([4, 1], []),
    ],
    ids=str,
)
def test_rows_are_shared_out_where_the_parts_are_even(
    lowered: Module, lengths: list[int], rows: list[int]
) -> None:
    shared = SharedRows(lowered, settings=TWO)
    shared.__dict__["_shared"] = side = Side(lowered, settings=TWO, share_threads=True)
    assert side.num_requests == 2
    keep = np.arange(4) < np.array(lengths)[:, None]
    shared.run({"x": random_states(keep), "mask": keep})
    assert list(side.rows) == rows


def test_the_settings_decide(lowered: Module) -> None:
    assert isinstance(start_session(lowered), SharedRows)
    assert isinstance(start_session(lowered, SessionSettings(requests=1)), OpenVinoSession)
    across = lowered.clone()
    del across.model.metadata_props["dechaff.rows"]
    assert isinstance(start_session(across, TWO), OpenVinoSession)
    assert "at most 2 requests" in str(TWO)
    for requests in (0, 3):
        with pytest.raises(UsageError, match=f"expected 1 to 2 requests.* got {requests}"):
            SessionSettings(2, requests=requests)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 7, 16])
def test_rows_are_dealt_once_and_tokens_evenly(rows: int, count: int) -> None:
    lengths = np.random.default_rng(rows).integers(10, 129, rows)
    shares = deal(lengths, count)
    assert sorted(np.concatenate(shares)) == list(range(rows))
    assert max(map(len, shares)) <= -(-rows // count)
    if rows == 16:
        tokens = [lengths[share].sum() for share in shares]
        assert max(tokens) - min(tokens) < lengths.max()


def test_rounded_models_run_in_parts_in_openvino_alone() -> None:
    assert isinstance(start_session(lower(rounded(), "openvino")), SharedRows)
    assert isinstance(start_session(lower(rounded())), Session)
