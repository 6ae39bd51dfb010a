"""Models that torch's exporter does not take as they are, and dechaff does."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import MixtralConfig, MixtralModel

from dechaff.frontend import from_torch
from tests.frontend.conftest import call


class MultiQuery(nn.Module):
    def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, key)


def test_a_single_head_of_keys_serves_all_queries() -> None:
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 1, 5, 8)
    captured = from_torch(MultiQuery(), (query, key))
    expected = MultiQuery().forward(query, key)
    torch.testing.assert_close(call(captured, query=query, key=key), expected)


def test_a_mixture_of_experts_is_captured_and_stays_as_it_was() -> None:
    config: Any = MixtralConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        vocab_size=40,
        use_cache=False,
    )
    model = MixtralModel(config).eval()
    before = config._experts_implementation
    ids = torch.arange(12).reshape(3, 4)
    captured = from_torch(model, {"input_ids": ids})
    assert config._experts_implementation == before
    with torch.no_grad():
        expected = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(call(captured, input_ids=ids).last_hidden_state, expected)
