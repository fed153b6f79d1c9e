from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from mixq.search.notes import cache_notes


class TinyForCausalLM(nn.Module):
    def __init__(self, **config: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)


# SmolLM2-135M: 30 layers, 3 heads of keys and values of 64 numbers (config.json of
# HuggingFaceTB/SmolLM2-135M-Instruct): 2 x 30 x 3 x 64 x 4 bytes.
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {
                "num_hidden_layers": 30,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "hidden_size": 576,
            },
            "46,080 bytes for each token",
        ),
        ({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}, "512 bytes"),
    ],
)
def test_a_cache_is_said(config: dict[str, int], expected: str) -> None:
    (note,) = cache_notes(TinyForCausalLM(**config))
    assert expected in note


@pytest.mark.parametrize("model", [nn.Linear(2, 2), TinyForCausalLM()])
def test_no_cache_no_note(model: nn.Module) -> None:
    assert cache_notes(model) == []
