from __future__ import annotations

import numpy as np
import pytest

from benchmarks.openvino_requests import SharedOut, deal, join_rows


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


def test_joined_rows_stand_where_they_stood() -> None:
    batch = np.arange(10)[:, None]
    shares = deal(np.arange(10) + 1, 2)
    found = SharedOut([[batch[share]] for share in shares], np.concatenate(shares))
    np.testing.assert_array_equal(join_rows(found)[0], batch)
