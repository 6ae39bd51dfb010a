from __future__ import annotations

import gc

import pytest

from dechaff.garbage_collection import fewer_collections


def test_collections_are_seldom_inside_and_as_before_after_it() -> None:
    before = gc.get_threshold()
    with fewer_collections():
        assert gc.get_threshold() > before
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_they_are_as_before_after_an_error_too() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError), fewer_collections():
        raise KeyError
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_what_a_caller_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen, before = gc.get_freeze_count(), gc.get_threshold()
        with fewer_collections():
            assert gc.get_threshold() == before
        assert gc.get_freeze_count() == frozen
    finally:
        gc.unfreeze()


def test_cycles_made_inside_are_collected_inside() -> None:
    class Node:
        count = 0

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            Node.count += 1

    with fewer_collections():
        for _ in range(50_000):
            Node()
        assert Node.count > 0
