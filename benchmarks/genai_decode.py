"""Decoding in onnxruntime-genai: the plan's folder against the fp32 folder of the same builder.

    OMP_NUM_THREADS=1 python benchmarks/genai_decode.py w8g64:int8 w4g64-zp

One token at a time after a prompt of 64 tokens (SmolLM2-135M), so that attention sees 64 to
64 + --tokens of them. Every argument is a plan: formats that the units get in turn, and after a
colon what is made of activations (`auto` by default). The folders take turns token by token in
one process on one thread; a row has medians of the CPU time of a token, the median of the ratios
fp32 / plan of a turn, and the difference of the logits from those of the applied plan (relative
root mean square on calibration texts, all positions).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from example_models import example  # noqa: E402
from plans import plan_for  # noqa: E402

from mixq.batch import call  # noqa: E402
from mixq.export.genai.genai import Genai  # noqa: E402
from mixq.export.source import Source  # noqa: E402
from mixq.formats import Format  # noqa: E402

PAST = 64
SKIPPED = 4
"""First tokens, which find caches cold."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plans", nargs="+", help="formats, joined by commas")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--text", default="The capital of France is")
    arguments = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}`\n")
    model, calibration, _ = example("smollm2").load()
    with tempfile.TemporaryDirectory() as folder:
        rows, texts = [], []
        paths = {}
        for name in ["w32", *arguments.plans]:
            plan, _, activations = name.partition(":")
            formats = [Format.parse(part) for part in plan.split(",")]
            runtime = Genai(activations or "auto")  # type: ignore[arg-type]
            source = Source.of(model, plan_for(model, *formats), calibration)
            paths[name] = Path(folder) / name
            written = runtime.write(source, paths[name])
            session = runtime.open(paths[name])
            difference = statistics.fmean(
                relative(source, session, batch) for batch in calibration.batches
            )
            texts.append(f"- {name}: {arguments.text}{session.generate(arguments.text, 16)!r}")
            session.close()
            rows.append([name, f"{written.tensor_bytes / 1e6:.1f}", f"{difference:.1e}"])
        times = decode(paths, arguments.tokens)
    print(
        "| plan | MB | logits differ by | CPU ms per token | fp32 / plan |\n|---|---|---|---|---|"
    )
    for row in rows:
        own = times[row[0]]
        ratio = statistics.median(a / b for a, b in zip(times["w32"], own, strict=True))
        print(f"| {' | '.join(row)} | {statistics.median(own) * 1e3:.2f} | {ratio:.2f} |")
    print("\n" + "\n".join(texts))


def relative(source: Source, session: Any, batch: Any) -> float:
    """Root mean square of the logits' difference over that of the applied plan's logits."""
    with torch.no_grad():
        expected = call(source.applied, batch).logits  # type: ignore[attr-defined]
    found = session.run(batch)["logits"]
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def decode(paths: dict[str, Path], tokens: int) -> dict[str, list[float]]:
    """CPU seconds of every token, folder by folder in turns."""
    import onnxruntime_genai as genai

    generators = {}
    for name, path in paths.items():
        config = genai.Config(str(path))
        config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}')
        model = genai.Model(config)
        params = genai.GeneratorParams(model)
        # No early end: a token counts whatever it is.
        length = PAST + SKIPPED + tokens + 1
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = genai.Generator(model, params)
        generator.append_tokens(list(range(100, 100 + PAST)))
        generators[name] = generator
    times: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(SKIPPED + tokens):
        for name, generator in generators.items():
            start = time.process_time()
            generator.generate_next_token()
            if turn >= SKIPPED:
                times[name].append(time.process_time() - start)
    return times


if __name__ == "__main__":
    main()
