"""The exporter called with its own table gives what the public function gives."""

from __future__ import annotations

import pytest
import torch
from transformers import BertModel

from dechaff.frontend import from_torch
from dechaff.frontend.torch_capture import quiet
from dechaff.frontend.torch_onnx_exporter import export_to_onnx, operator_registry
from dechaff.ir import WORKING_OPSET
from tests.frontend.conftest import make_inputs


def test_the_graph_is_that_of_the_public_function(bert: BertModel) -> None:
    with quiet(), torch.no_grad():
        program = torch.export.export(bert, (), make_inputs(2, 6), strict=False)
        public = torch.onnx.export(
            program, dynamo=True, opset_version=WORKING_OPSET, verbose=False, optimize=False
        )
        ours = export_to_onnx(program)
    assert public is not None
    assert str(ours.model.graph) == str(public.model.graph)
    assert ours.model.opset_imports == public.model.opset_imports


def test_the_table_is_read_once_and_stays_as_it_is(
    bert: BertModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_torch(bert, make_inputs(2, 6))
    before = {name: len(entries) for name, entries in operator_registry().functions.items()}

    def again(*_: object, **__: object) -> None:
        raise AssertionError("the table was read again")

    monkeypatch.setattr(type(operator_registry()), "from_torchlib", again)
    from_torch(bert, make_inputs(2, 6))
    assert before == {name: len(items) for name, items in operator_registry().functions.items()}
