from __future__ import annotations

import numpy as np

from benchmarks.openvino_requests import SharedOut, join_rows
from dechaff.backends.openvino.shared_rows import deal


def test_joined_rows_stand_where_they_stood() -> None:
    batch = np.arange(10)[:, None]
    shares = deal(np.arange(10) + 1, 2)
    found = SharedOut([[batch[share]] for share in shares], np.concatenate(shares))
    np.testing.assert_array_equal(join_rows(found)[0], batch)
