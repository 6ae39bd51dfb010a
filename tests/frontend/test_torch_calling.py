"""How a captured model is called: structures in and out, and calls that do not fit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from dechaff.frontend import from_torch
from dechaff.ir import InputRejectedError, Module
from tests.frontend.conftest import call, make_inputs


class Identity(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Nested(nn.Module):
    def forward(
        self,
        x: torch.Tensor,
        extras: dict[str, Any],
        flag: bool = False,
        *,
        factor: int = 2,
    ) -> dict[str, Any]:
        y = x * factor + extras["a"][0] if not flag else x
        return {
            "pair": Pair(y, x - extras["a"][1]),
            "nothing": None,
            "same": [x, y, y],
            "rows": x.shape[0],
            "word": "fixed",
        }


def extras(rows: int) -> dict[str, Any]:
    return {"a": [torch.rand(rows, 4), torch.rand(rows, 4)], "none": None}


@pytest.fixture(scope="module")
def nested() -> Module:
    return from_torch(Nested().eval(), ((torch.rand(3, 4), extras(3)), {"factor": 3}))


def test_nested_arguments_and_results_keep_their_structure(nested: Module) -> None:
    x, more = torch.rand(5, 4), extras(5)
    result, expected = call(nested, x, more, factor=3), Nested()(x, more, factor=3)
    assert list(result) == list(expected)
    assert isinstance(result["pair"], Pair)
    assert (result["nothing"], result["rows"], result["word"]) == (None, 5, "fixed")
    torch.testing.assert_close(result["pair"], expected["pair"])
    torch.testing.assert_close(result["same"], expected["same"])


def test_arguments_go_by_position_or_by_name(nested: Module) -> None:
    x, more = torch.rand(5, 4), extras(5)
    by_name = call(nested, extras=more, x=x, factor=3)
    torch.testing.assert_close(call(nested, x, more, factor=3)["pair"], by_name["pair"])


def test_arrays_are_accepted_in_place_of_tensors(nested: Module) -> None:
    x, more = torch.rand(5, 4), extras(5)
    arrays = {"a": [item.numpy() for item in more["a"]], "none": None}
    result = call(nested, x.numpy(), arrays, factor=3)
    torch.testing.assert_close(result["pair"], call(nested, x, more, factor=3)["pair"])


def test_defaults_may_be_given_or_left_out(nested: Module) -> None:
    x, more = torch.rand(5, 4), extras(5)
    with_default = call(nested, x, more, False)
    torch.testing.assert_close(with_default["pair"], call(nested, x, more)["pair"])


def refuse(module: Module, message: str, *args: Any, **kwargs: Any) -> None:
    assert module.calling_convention is not None
    with pytest.raises(InputRejectedError, match=message):
        module.calling_convention.flatten(args, kwargs)


def test_calls_that_do_not_fit_are_refused(nested: Module) -> None:
    x = torch.rand(5, 4)
    refuse(nested, "missing a required argument: 'extras'", x)
    refuse(nested, r"'flag' is not part of the captured model; captured with: x, extras", x, {}, 1)
    refuse(nested, "'factor': it was fixed at 3 .* got 4", x, extras(5), factor=4)
    refuse(nested, r"expected float\[batch,4\], got double\[5,4\]", x.double(), extras(5))
    refuse(nested, r"expected float\[batch,4\], got float\[5\]", x[:, 0], extras(5))
    refuse(nested, r"expected float\[batch,4\], got float\[5,3\]", x[:, :3], extras(5))
    refuse(nested, r"expected .* float\[batch,4\], got list", [[1.0]], extras(5))
    refuse(nested, "expected the structure", x, {"a": [x], "none": None})
    refuse(nested, "unexpected keyword argument 'y'", x, extras(5), y=x)


def test_an_argument_that_was_not_captured_is_named(captured_bert: Module) -> None:
    inputs = make_inputs(2, 5)
    refuse(
        captured_bert,
        "'token_type_ids' is not part of the captured model; "
        "captured with: input_ids, attention_mask",
        **inputs,
        token_type_ids=torch.zeros_like(inputs["input_ids"]),
    )
    refuse(captured_bert, "argument 'attention_mask' is missing", inputs["input_ids"])
    refuse(
        captured_bert,
        r"argument 'attention_mask': expected int64\[batch,sequence\], got bool\[2,5\]",
        **(inputs | {"attention_mask": np.ones((2, 5), bool)}),
    )


def test_an_argument_that_was_none_may_be_left_out() -> None:
    class Optional(nn.Module):
        def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            return x if bias is None else x + bias

    module = from_torch(Optional().eval(), {"x": torch.rand(3, 4), "bias": None})
    x = torch.rand(2, 4)
    torch.testing.assert_close(call(module, x), x)
    torch.testing.assert_close(call(module, x, None), x)
    refuse(module, "'bias': it was fixed at None when the model was captured", x, x)


def test_variable_numbers_of_arguments_keep_their_places() -> None:
    class Sum(nn.Module):
        def forward(self, *terms: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
            return terms[0] - terms[1] + more["last"]

    x = torch.rand(3, 4)
    module = from_torch(Sum().eval(), ((x, x), {"last": x}))
    a, b, c = torch.rand(3, 3, 4)
    torch.testing.assert_close(call(module, a, b, last=c), a - b + c)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int32])
def test_dtypes_pass_both_ways(dtype: torch.dtype) -> None:
    class Flip(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.transpose(x, 0, 1)

    x = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    module = from_torch(Flip().eval(), (x,))
    convention = module.calling_convention
    assert convention is not None
    (array,) = convention.flatten((x,), {}).values()
    result = convention.unflatten({"output": array.T})
    assert result.dtype is dtype
    torch.testing.assert_close(result, x.T)


def test_arrays_are_not_copied() -> None:
    module = from_torch(Identity().eval(), (torch.rand(3, 4),))
    convention = module.calling_convention
    assert convention is not None
    x = torch.rand(3, 4)
    (array,) = convention.flatten((x,), {}).values()
    assert np.shares_memory(array, x.numpy())
    output = np.zeros((3, 4), np.float32)
    assert np.shares_memory(convention.unflatten({"output": output}).numpy(), output)
