from __future__ import annotations

from dechaff.passes import Rewriter
from tests.passes.rewrite_checks import module_from

GRAPH = """
    g (float[2] x) => (float[2] y)
    {
        h = Relu (x)
        h_2 = Relu (h)
        y = Relu (h_2)
    }
"""


def test_fresh_names_count_up_and_leave_out_what_is_taken() -> None:
    rewriter = Rewriter(module_from(GRAPH))
    assert [rewriter.fresh_name("h") for _ in range(3)] == ["h_1", "h_3", "h_4"]
    assert [rewriter.fresh_name("new") for _ in range(2)] == ["new", "new_1"]
    assert [rewriter.fresh_name("h_2") for _ in range(2)] == ["h_2_1", "h_2_2"]


def test_a_thousand_names_of_one_stem_are_found_without_a_search() -> None:
    class Counted(set[str]):
        asked = 0

        def __contains__(self, name: object) -> bool:
            Counted.asked += 1
            return super().__contains__(name)

    rewriter = Rewriter(module_from(GRAPH))
    rewriter._names = Counted(rewriter._names)
    names = [rewriter.fresh_name("h") for _ in range(1000)]
    assert len(set(names)) == 1000
    assert Counted.asked < 3 * 1000
