from __future__ import annotations

from dechaff.ir import parse
from dechaff.passes import tidy
from tests.passes.rewrite_checks import HEADER


def test_unused_nodes_go_at_once_however_they_lie() -> None:
    body = "y = Relu (x)\n a = Abs (x)\n b = Neg (a)"
    module = parse(f"{HEADER} g (float[4] x) => (float[4] y) {{ {body} }}")
    reader = module.graph[-1]
    module.graph.remove(reader)
    module.graph.insert_before(module.graph[0], reader)  # it lies before what it reads
    tidy(module)
    assert [node.op_type for node in module.graph] == ["Relu"]
