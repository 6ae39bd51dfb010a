from __future__ import annotations

from dechaff.ir import MODULE_PATH_KEY, inherit, module_path, origins, parse, stamp_origins

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[N] x) => (float[N] y) { h = Relu (x) k = Tanh (h) y = Exp (k) }
"""


def test_each_imported_node_is_its_own_origin_under_a_unique_name() -> None:
    module = parse(TEXT)
    for node in module.graph:
        node.name = "same"
    stamp_origins(module.graph)
    names = [node.name for node in module.graph]
    assert len(set(names)) == 3
    assert [origins(node) for node in module.graph] == [(name,) for name in names]


def test_a_new_node_has_the_origins_and_the_common_path_of_what_it_replaces() -> None:
    module = parse(TEXT)
    stamp_origins(module.graph)
    first, second, new = module.graph
    first.metadata_props[MODULE_PATH_KEY] = "encoder.layer.3.attention.self"
    second.metadata_props[MODULE_PATH_KEY] = "encoder.layer.3.attention.output"
    new.metadata_props.clear()
    inherit([new], [first, second], "fuse")
    assert origins(new) == (first.name, second.name)
    assert module_path(new) == "encoder.layer.3.attention"


def test_stamping_twice_keeps_the_first_origins() -> None:
    module = parse(TEXT)
    stamp_origins(module.graph)
    before = [origins(node) for node in module.graph]
    stamp_origins(module.graph)
    assert [origins(node) for node in module.graph] == before
