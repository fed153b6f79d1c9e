"""SessionModel: an ONNX file in the place of a causal language model of transformers."""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from mixq.errors import ExportError
from mixq.export.onnx.session import OnnxSession

TEXT: Final = "input_ids"
KNOWN: Final = (TEXT, "attention_mask", "position_ids", "token_type_ids")


class SessionModel(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """Logits from a session; transformers generates with them, token by token.

    The file of a whole forward pass keeps no keys and values, so every token that is generated
    costs a pass over all that stand before it.

    Args:
        session: that takes `input_ids` and returns logits.
        config: of the original model.
        generation: how the original generates by itself.

    Raises:
        ExportError: if the file is no causal language model.
    """

    main_input_name = TEXT

    def __init__(
        self, session: OnnxSession, config: Any, generation: GenerationConfig | None = None
    ) -> None:
        config = copy.deepcopy(config)
        config._attn_implementation = "eager"  # nothing here attends
        super().__init__(config)
        unknown = [name for name in session.input_names if name not in KNOWN]
        if TEXT not in session.input_names or unknown:
            raise ExportError(
                f"the file takes {', '.join(session.input_names)}, but a language model that can "
                f"be evaluated takes {TEXT} and at most {', '.join(KNOWN[1:])}; export it from "
                "a causal language model"
            )
        self.session = session
        self._logits = "logits" if "logits" in session.output_names else session.output_names[0]
        if generation is not None:
            self.generation_config = generation

    @property
    def device(self) -> torch.device:
        """Where inputs have to be."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        return torch.float32

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_others: Any
    ) -> CausalLMOutput:
        """Logits (batch, tokens, vocabulary).

        Texts of several lengths may be padded on the left, as transformers does to generate. They
        are moved to the left and padded on the right, where no causal model looks: the file
        need not know of padding.
        """
        lengths = _lengths(input_ids, attention_mask)
        width = input_ids.shape[1]
        moved = input_ids
        if attention_mask is not None and bool((lengths < width).any()):
            moved = _rolled(input_ids, lengths - width)
        logits = self._run(moved)
        if moved is not input_ids:
            logits = _rolled(logits, width - lengths)
        return CausalLMOutput(logits=logits)

    def generate(self, *args: Any, **options: Any) -> Any:
        """As transformers generates, without the cache that the file lacks."""
        above: Any = super()
        return above.generate(*args, **{**options, "use_cache": False})

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_others: Any
    ) -> dict[str, Any]:
        """All tokens so far, and which of them are padding."""
        return {TEXT: input_ids, "attention_mask": attention_mask}

    def _run(self, ids: Tensor) -> Tensor:
        every = {
            TEXT: ids,
            "attention_mask": torch.ones_like(ids),
            "position_ids": torch.arange(ids.shape[1]).expand_as(ids).contiguous(),
            "token_type_ids": torch.zeros_like(ids),
        }
        given = {name: every[name] for name in self.session.input_names}
        logits = self.session.run(given)[self._logits]
        if logits.shape[:2] != ids.shape or logits.dim() != 3:
            raise ExportError(
                f"the file returns {tuple(logits.shape)} for texts of shape {tuple(ids.shape)}, "
                "but a causal language model returns a row of logits for every token; export it "
                "from a causal language model"
            )
        return logits.float()


def _lengths(ids: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens of each text (batch,) that are no padding."""
    if mask is None:
        return torch.full(ids.shape[:1], ids.shape[1])
    return mask.long().sum(1)


def _rolled(values: Tensor, shifts: Tensor) -> Tensor:
    """Rows of (batch, tokens, ...), each rolled along its tokens."""
    return torch.stack(
        [row.roll(int(shift), 0) for row, shift in zip(values, shifts, strict=True)]
    )
