"""What cannot be captured or converted is told with the lines of the model's own source."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dechaff.frontend import from_torch
from dechaff.ir import ModelRejectedError


def failure(model: nn.Module) -> str:
    with pytest.raises(ModelRejectedError) as caught:
        from_torch(model.eval(), (torch.rand(4, 4),))
    return str(caught.value)


def test_a_branch_on_values_names_its_line() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return x
            return -x

    message = failure(Branch())
    assert "depends on tensor values" in message
    assert f"{__file__}:" in message
    assert "if x.sum() > 0:" in message
    assert "\n" not in message


def test_any_other_failure_names_its_line() -> None:
    class Numpy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(x.numpy())

    message = failure(Numpy())
    assert "return torch.from_numpy(x.numpy())" in message
    assert "\n" not in message


def test_all_operators_without_a_counterpart_are_listed_at_once() -> None:
    class Rare(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.special.bessel_j0(x)
            z: torch.Tensor = torch.special.airy_ai(y)
            z += torch.linalg.eigvals(x).real
            return z

    lines = failure(Rare()).splitlines()
    assert "3 operator(s) have no ONNX counterpart" in lines[0]
    assert len(lines) == 4
    assert lines[1].endswith("y = torch.special.bessel_j0(x)")
    assert lines[2].endswith("z: torch.Tensor = torch.special.airy_ai(y)")
    assert lines[3].endswith("z += torch.linalg.eigvals(x).real")
