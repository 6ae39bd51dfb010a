"""Capture of torch models: sizes, results, evaluation mode, other forms of a model."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import BatchEncoding, BertModel

from dechaff.frontend import from_torch
from dechaff.frontend.torch_axes import distinct_sizes
from dechaff.ir import (
    WORKING_OPSET,
    MissingPackageError,
    Module,
    SymbolRange,
    UsageError,
    module_path,
    shape_expressions,
)
from tests.frontend.conftest import SIZES, call, make_inputs


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def input_shapes(module: Module) -> dict[str, str]:
    return {value.name or "": str(value.shape) for value in module.graph.inputs}


def test_a_hugging_face_model_gives_its_numbers_in_its_own_dataclass(
    bert: BertModel, captured_bert: Module
) -> None:
    for batch, sequence in SIZES:
        inputs = make_inputs(batch, sequence)
        with torch.no_grad():
            expected = bert(**inputs)
        result = call(captured_bert, **inputs)
        assert type(result) is type(expected)
        assert list(result) == list(expected)
        torch.testing.assert_close(result.last_hidden_state, expected.last_hidden_state)
        torch.testing.assert_close(result.pooler_output, expected.pooler_output)


def test_ids_and_mask_share_their_symbols(captured_bert: Module) -> None:
    assert input_shapes(captured_bert) == {
        "input_ids": "[batch,sequence]",
        "attention_mask": "[batch,sequence]",
    }
    assert captured_bert.symbols == {
        "batch": SymbolRange(1, None),
        "sequence": SymbolRange(1, 32),  # as many as there are position embeddings
    }
    assert captured_bert.opset == WORKING_OPSET


def test_every_size_is_known_in_terms_of_the_inputs(captured_bert: Module) -> None:
    for node in captured_bert.nodes():
        for value in node.outputs:
            sizes = shape_expressions(value)
            assert sizes is not None
            symbols = {symbol.name for size in sizes for symbol in size.free_symbols}
            assert symbols <= {"batch", "sequence"}


def test_attention_stays_one_operator_that_knows_its_layer(captured_bert: Module) -> None:
    paths = [module_path(node) for node in captured_bert.nodes() if node.op_type == "Attention"]
    assert paths == ["encoder.layer.0.attention.self", "encoder.layer.1.attention.self"]


def test_inputs_and_outputs_have_the_names_of_the_original(captured_bert: Module) -> None:
    assert [value.name for value in captured_bert.graph.outputs] == [
        "last_hidden_state",
        "pooler_output",
    ]


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (4, 4), (1, 7)])
def test_sizes_of_the_example_that_torch_would_fix_stay_variable(batch: int, sequence: int) -> None:
    class Rows(nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (ids * mask).reshape(ids.shape[0], -1, 1).cumsum(1)

    example = (torch.ones(batch, sequence, dtype=torch.int64),) * 2
    module = from_torch(Rows(), example)
    assert input_shapes(module) == {"ids": "[batch,sequence]", "mask": "[batch,sequence]"}
    ids, mask = torch.arange(10).reshape(2, 5), torch.tensor([[1, 1, 1, 0, 0]] * 2)
    torch.testing.assert_close(call(module, ids, mask), Rows()(ids, mask))


def test_inputs_are_generated_for_a_model_that_says_what_it_takes() -> None:
    class Configured(nn.Module):
        main_input_name = "input_ids"
        config = SimpleNamespace(vocab_size=5)

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            embedded: torch.Tensor = self.embedding(input_ids)
            return embedded * attention_mask.unsqueeze(-1)

    module = from_torch(Configured())
    assert input_shapes(module) == {
        "input_ids": "[batch,sequence]",
        "attention_mask": "[batch,sequence]",
    }


def test_a_batch_encoding_is_a_mapping_of_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return input_ids + attention_mask

    module = from_torch(Sum(), BatchEncoding(make_inputs(3, 7)))
    assert list(input_shapes(module)) == ["input_ids", "attention_mask"]


def test_hidden_states_vary_along_batch_and_sequence_only() -> None:
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    module = from_torch(encoder, (torch.rand(3, 7, 16),))
    assert input_shapes(module) == {"src": "[batch,sequence,16]"}
    x = torch.rand(1, 1, 16)
    with torch.no_grad():
        torch.testing.assert_close(call(module, x), encoder(x))


def test_one_example_tensor_given_twice_stands_for_two_inputs() -> None:
    class Difference(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x - y

    example = torch.rand(3, 4)
    module = from_torch(Difference(), (example, example))
    x, y = torch.rand(2, 5, 4)
    torch.testing.assert_close(call(module, x, y), x - y)


def test_a_feature_axis_of_the_same_size_as_the_sequence_stays_fixed() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(7, 4)

        def forward(self, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            projected: torch.Tensor = self.linear(features)
            return projected + ids.sum(1, keepdim=True)

    module = from_torch(Mixed(), (torch.ones(3, 7, dtype=torch.int64), torch.rand(3, 7)))
    assert input_shapes(module) == {"ids": "[batch,sequence]", "features": "[batch,7]"}


def test_a_fixed_number_of_positions_leaves_the_sequence_of_the_ids_variable() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.rand(7, 4))

        def forward(self, ids: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
            return (patches + self.positions).sum((1, 2)) + ids.sum(1)

    module = from_torch(Patches(), (torch.ones(3, 7, dtype=torch.int64), torch.rand(3, 7, 4)))
    assert input_shapes(module) == {"ids": "[batch,sequence]", "patches": "[batch,7,4]"}


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (0, 1), (4, 4), (1, 3), (3, 1)])
def test_example_sizes_become_distinct_and_none_is_special(batch: int, sequence: int) -> None:
    sizes = distinct_sizes({"batch": batch, "sequence": sequence})
    assert sizes["batch"] != sizes["sequence"]
    assert min(sizes.values()) >= 2
    assert sequence < 2 or sizes["sequence"] == sequence  # there may be a longest


def test_a_size_that_the_model_fixes_is_fixed_at_the_size_of_the_example() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offsets = nn.Parameter(torch.rand(1, 4))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return ids.view(1, -1) @ torch.ones(4, 1, dtype=torch.int64) + self.offsets

    module = from_torch(Fixed(), (torch.ones(1, 4, dtype=torch.int64),))
    assert input_shapes(module) == {"ids": "[1,4]"}


def test_a_length_that_the_model_computes_with_stays_fixed_and_the_batch_varies() -> None:
    """Longformer takes the number of its chunks out of a tensor."""

    class Chunks(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            count: Any = torch.div(torch.tensor(x.shape[1]), 2, rounding_mode="trunc")
            return x.view(x.shape[0], count, 2).sum(2)

    module = from_torch(Chunks().eval(), (torch.rand(3, 8),))
    assert input_shapes(module) == {"x": "[batch,8]"}
    x = torch.rand(5, 8)
    torch.testing.assert_close(call(module, x), x.view(5, 4, 2).sum(2))


def test_two_families_of_inputs_have_a_sequence_each() -> None:
    class Pair(nn.Module):
        def forward(self, input_ids: torch.Tensor, decoder_input_ids: torch.Tensor) -> torch.Tensor:
            return input_ids.sum(1, keepdim=True) + decoder_input_ids

    ids = torch.ones(3, 7, dtype=torch.int64)
    module = from_torch(Pair(), {"input_ids": ids, "decoder_input_ids": ids.clone()})
    assert input_shapes(module) == {
        "input_ids": "[batch,sequence]",
        "decoder_input_ids": "[batch,decoder_sequence]",
    }


def test_dims_of_the_caller_keep_their_names_and_ranges() -> None:
    dims = {"x": {0: Dim("rows", min=3, max=20)}}
    module = from_torch(Double(), (torch.rand(4, 7),), dynamic_shapes=dims)
    assert input_shapes(module) == {"x": "[rows,7]"}
    assert module.symbols == {"rows": SymbolRange(3, 20)}


def test_without_dynamic_shapes_all_sizes_are_fixed() -> None:
    module = from_torch(Double(), (torch.rand(4, 7),), dynamic_shapes=None)
    assert input_shapes(module) == {"x": "[4,7]"}


def test_an_exported_program_is_taken_as_it_is() -> None:
    program = torch.export.export(
        Double(), (torch.rand(4, 7),), dynamic_shapes={"x": {0: Dim("n", min=3)}}
    )
    module = from_torch(program)
    assert input_shapes(module) == {"x": "[batch,7]"}
    assert module.symbols == {"batch": SymbolRange(3, None)}
    x = torch.rand(5, 7)
    torch.testing.assert_close(call(module, x), x * 2)
    torch.testing.assert_close(call(module, x=x), x * 2)


def test_a_traced_graph_module_is_captured() -> None:
    module = from_torch(torch.fx.symbolic_trace(Double()), (torch.rand(4, 7),))
    x = torch.rand(2, 7)
    torch.testing.assert_close(call(module, x), x * 2)


def test_a_model_in_training_is_captured_in_evaluation_mode_and_left_in_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    model[0].eval()
    module = from_torch(model, (torch.rand(3, 4),))
    assert [model.training, model[0].training, model[1].training] == [True, False, True]
    assert "evaluation mode" in caplog.text
    x = torch.rand(2, 4)
    torch.testing.assert_close(call(module, x), model.eval()(x))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    from_torch(Double().eval(), (torch.rand(3, 4),))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Double(), None, "pass example_inputs="),
        (Double(), {"z": torch.rand(3)}, "missing a required argument: 'x'"),
        (Double(), 3, "expected a dict of keyword arguments"),
        ("model", None, "got str"),
    ],
)
def test_a_misuse_is_told(model: Any, example: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_torch(model, example)


def test_a_missing_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"dechaff\[torch\]"):
        from_torch(Double(), (torch.rand(3, 4),))


def test_importing_the_frontends_does_not_load_torch() -> None:
    code = "import sys, dechaff.frontend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
