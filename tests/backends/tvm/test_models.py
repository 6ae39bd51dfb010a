"""Whole models through TVM's code for the CPU, compared with the original; a few families here.

``make compiled`` runs all of them.
"""

from __future__ import annotations

import pytest

from benchmarks.compiled_coverage import check_family
from benchmarks.coverage.families import FAMILIES

CHOSEN = {"BERT": ("packed", "dense"), "Llama": ("packed",), "Llama with past": ("dense",)}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_model_compiled_for_the_cpu_gives_the_originals_numbers(name: str) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    for outcome in check_family(family, CHOSEN[name]):
        assert outcome.problem == ""
        assert outcome.max_abs_error is not None
