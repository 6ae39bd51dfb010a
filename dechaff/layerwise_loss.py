"""For a fine-tuning loop of your own: a loss at every layer, so that the model can be left early.

A model that was trained for its last layer's answer says little after its first layers. Trained
with these heads and this loss it can be left early (MuE, CVPR 2023, section 3.3; PABEE, NeurIPS
2020, section 3.3)::

    heads = exit_heads(hidden_size=384, num_labels=2, num_layers=6)
    ...
    result = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    early = early_logits(heads, result.hidden_states[1:-1], mask)
    loss = layerwise_loss([*early, result.logits], labels)
    ...
    save_exit_heads(heads, "heads.npz")

The file is what ``early-exit{heads=heads.npz}`` takes. torch is imported when a function is called.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dechaff.passes.exits.light_heads import LightHead, save_heads

if TYPE_CHECKING:
    import torch


def exit_heads(hidden_size: int, num_labels: int, num_layers: int) -> torch.nn.ModuleList:
    """A linear head for every layer but the last, on :func:`token_summary` of its states."""
    import torch

    return torch.nn.ModuleList(
        torch.nn.Linear(2 * hidden_size, num_labels) for _ in range(num_layers - 1)
    )


def token_summary(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The first valid token's state beside the mean over valid tokens.

    Args:
        hidden: float[B, S, D].
        mask: [B, S], not zero at valid tokens.

    Returns:
        float[B, 2 * D].
    """
    import torch

    kept = (mask != 0).unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
    first = kept.squeeze(-1).argmax(dim=1)
    rows = torch.arange(len(hidden), device=hidden.device)
    return torch.cat([hidden[rows, first], mean], dim=-1)


def early_logits(
    heads: torch.nn.ModuleList, hidden_states: Sequence[torch.Tensor], mask: torch.Tensor
) -> list[torch.Tensor]:
    """The answers of the heads, float[B, num_labels] each.

    Args:
        heads: of :func:`exit_heads`.
        hidden_states: the states after each layer but the last, float[B, S, D] each.
        mask: [B, S], not zero at valid tokens.
    """
    return [
        head(token_summary(hidden, mask)) for head, hidden in zip(heads, hidden_states, strict=True)
    ]


def layerwise_loss(logits: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every layer's answer, weighted by its depth: sum of i * L_i over sum of i.

    Args:
        logits: float[B, num_labels] of each layer in the order of depth, the model's own last.
        labels: int64[B].
    """
    import torch

    losses = [torch.nn.functional.cross_entropy(each.float(), labels) for each in logits]
    weights = range(1, len(losses) + 1)
    total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    return torch.as_tensor(total / sum(weights))


def save_exit_heads(heads: torch.nn.ModuleList, path: str | os.PathLike[str]) -> None:
    """Write heads to the file that ``early-exit{heads=PATH}`` takes (``.npz``)."""
    weights = {name: tensor.cpu().float().numpy() for name, tensor in heads.state_dict().items()}
    by_layer = {
        layer + 1: LightHead(weights[f"{layer}.weight"], weights[f"{layer}.bias"])
        for layer in range(len(heads))
    }
    save_heads(by_layer, path)
