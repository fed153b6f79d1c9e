"""Moments of what recurrent layers read, against their equations written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from .helpers import check_near, moments_of, normal


def gru_states(layer: nn.GRU, x: Tensor, suffix: str) -> Tensor:
    """States that each step starts from, (steps, batch, hidden), of the equations of nn.GRU."""
    weight_ih, weight_hh, bias_ih, bias_hh = (
        getattr(layer, f"{kind}_{suffix}")
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    state = torch.zeros(x.shape[1], layer.hidden_size)
    states = []
    for step in x:
        states.append(state)
        r_x, z_x, n_x = functional.linear(step, weight_ih, bias_ih).chunk(3, -1)
        r_h, z_h, n_h = functional.linear(state, weight_hh, bias_hh).chunk(3, -1)
        r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
        state = (1 - z) * (n_x + r * n_h).tanh() + z * state
    return torch.stack([*states, state])


def lstm_states(layer: nn.LSTM, x: Tensor, suffix: str) -> Tensor:
    """As `gru_states`, of the equations of nn.LSTM, projected if the layer projects."""
    weight_ih, weight_hh, bias_ih, bias_hh = (
        getattr(layer, f"{kind}_{suffix}")
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    state = torch.zeros(x.shape[1], layer.proj_size or layer.hidden_size)
    cell = torch.zeros(x.shape[1], layer.hidden_size)
    states = []
    for step in x:
        states.append(state)
        gates = functional.linear(step, weight_ih, bias_ih)
        i, f, g, o = (gates + functional.linear(state, weight_hh, bias_hh)).chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        state = o.sigmoid() * cell.tanh()
        if layer.proj_size:
            state = state @ getattr(layer, f"weight_hr_{suffix}").t()
    return torch.stack([*states, state])


RECURRENT: dict[str, tuple[Callable[..., nn.RNNBase], Callable[..., Tensor]]] = {
    "lstm": (nn.LSTM, lstm_states),
    "projected": (nn.LSTM, lstm_states),
    "gru": (nn.GRU, gru_states),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
class TestRecurrent:
    @pytest.mark.parametrize("kind", RECURRENT)
    @pytest.mark.parametrize("batch_first", [False, True], ids=["steps-first", "batch-first"])
    @torch.no_grad()
    def test_two_layers_both_ways(self, kind: str, batch_first: bool) -> None:
        options: dict[str, Any] = {
            "num_layers": 2,
            "bidirectional": True,
            "batch_first": batch_first,
            **({"proj_size": 4} if kind == "projected" else {}),
        }
        x = normal(5, 3, 6)
        made, states = RECURRENT[kind]
        layer = made(6, 8, **options)
        found = moments_of(layer, x.transpose(0, 1) if batch_first else x)
        inputs = x
        for depth in range(2):
            outputs = []
            for way in ("", "_reverse"):
                suffix = f"l{depth}{way}"
                read = inputs.flip(0) if way else inputs
                met = states(layer, read, suffix)
                check_near(found[f"weight_ih_{suffix}"], inputs.flatten(0, 1))
                check_near(found[f"weight_hh_{suffix}"], met[:-1].flatten(0, 1))
                outputs.append(met[1:].flip(0) if way else met[1:])
            inputs = torch.cat(outputs, -1)

    def test_projection(self) -> None:
        found = moments_of(nn.LSTM(6, 8, proj_size=4), normal(5, 3, 6))
        assert found["weight_hr_l0"].count == 15
