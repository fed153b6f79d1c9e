"""A kit: one model and its data in a folder that every tool's own environment can read.

Nothing here imports mixq, because the tools run where it is not installed. A kit holds

    kit.json                 which network
    model/                   its weights, for transformers' models with configuration and tokenizer
    calibration.safetensors  batches 0.input_ids, 0.attention_mask, 1.input_ids, ...
    inputs.safetensors       of an image model: what it is tested on, for tools that rebuild it

and a job leaves `weights.safetensors`, the weights that it made as 32-bit floats under the names
of the original's state, and `job.json`, what the tool stores. A tool whose model is no longer the
original's network leaves `outputs.safetensors` in place of weights, what its model makes of the
inputs. What either is worth is measured elsewhere, by mixq.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = "weights.safetensors"
OUTPUTS = "outputs.safetensors"
INPUTS = "inputs.safetensors"
REPORT = "job.json"


@dataclass(frozen=True)
class Kit:
    """What a job is given: a folder as above."""

    folder: Path

    @property
    def network(self) -> str:
        return str(json.loads((self.folder / "kit.json").read_text(encoding="utf-8"))["network"])

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def model(self) -> nn.Module:
        """The original, in 32 bits and eval mode."""
        if self.network == "efficientnet_lite0":
            from efficientnet_lite_pytorch import EfficientNet

            model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
            model.load_state_dict(load_file(self.model_folder / "model.safetensors"))
            return model.eval()
        from transformers import BertModel, LlamaForCausalLM

        kind = {"minilm": BertModel, "smollm2": LlamaForCausalLM}[self.network]
        return kind.from_pretrained(
            self.model_folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def batches(self) -> list[dict[str, Tensor]]:
        """Calibration batches, each a dictionary; of a network that takes one tensor, `input`."""
        found: dict[int, dict[str, Tensor]] = {}
        for name, tensor in load_file(self.folder / "calibration.safetensors").items():
            index, _, key = name.partition(".")
            found.setdefault(int(index), {})[key] = tensor
        return [found[index] for index in sorted(found)]

    def samples(self) -> list[dict[str, Tensor]]:
        """The same, one by one."""
        return [
            {key: tensor[i : i + 1] for key, tensor in batch.items()}
            for batch in self.batches()
            for i in range(len(next(iter(batch.values()))))
        ]


def write_kit(
    folder: Path,
    network: str,
    model: nn.Module,
    batches: list[Any],
    tokenizer: Path | None = None,
    inputs: Tensor | None = None,
) -> Kit:
    """Write a model and its calibration, the files of its tokenizer, and inputs to run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").mkdir(exist_ok=True)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder / "model")
    else:
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
            folder / "model" / "model.safetensors",
        )
    for file in () if tokenizer is None else tokenizer.iterdir():
        if "token" in file.name or file.name in ("vocab.txt", "vocab.json", "merges.txt"):
            shutil.copy(file, folder / "model")
    if inputs is not None:
        save_file({"input": inputs.contiguous()}, folder / INPUTS)
    named = {}
    for i, batch in enumerate(batches):
        parts = batch if isinstance(batch, Mapping) else {"input": batch}
        named.update({f"{i}.{key}": tensor.clone() for key, tensor in parts.items()})
    save_file(named, folder / "calibration.safetensors")
    (folder / "kit.json").write_text(json.dumps({"network": network}), encoding="utf-8")
    return Kit(folder)


def arguments() -> tuple[Kit, dict[str, Any], Path]:
    """Of a job: its kit, its setting, and the folder for what it makes."""
    kit, setting, output = sys.argv[1:]
    return Kit(Path(kit)), json.loads(setting), Path(output)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, those that share storage once."""
    seen = {}
    for tensor in (*model.parameters(), *model.buffers()):
        seen[tensor.data_ptr() if tensor.numel() else id(tensor)] = tensor
    return sum(tensor.numel() * tensor.element_size() for tensor in seen.values())


def finish(
    output: Path, package: str, weight_bytes: int, weights: Mapping[str, Tensor], note: str = ""
) -> None:
    """Write what a job made.

    Args:
        output: its folder.
        package: whose version is reported.
        weight_bytes: of everything that the tool stores of the model.
        weights: in 32 bits, by name in the original's state; what is missing has not changed. Or
            `output` alone.
        note: what a reader should know.
    """
    file = OUTPUTS if set(weights) == {"output"} else WEIGHTS
    save_file(
        {name: tensor.detach().float().contiguous().clone() for name, tensor in weights.items()},
        output / file,
    )
    report = {"version": version(package), "weight_bytes": weight_bytes, "note": note}
    (output / REPORT).write_text(json.dumps(report), encoding="utf-8")
