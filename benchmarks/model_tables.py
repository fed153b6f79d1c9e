"""Tables of operations of convolutional networks that published tables name, at batch 1.

Writes `mixq/predict/models/networks.json`, which predictions read without torch. Every network is
traced with random weights by mixq's own graph room. It needs torchvision and timm, which the
project does not:

    python -m venv /tmp/tv
    echo SITE_PACKAGES_OF_MIXQ > /tmp/tv/lib/python3.11/site-packages/mixq.pth
    /tmp/tv/bin/pip install --no-deps torchvision==0.28.0 timm==1.0.31
    PYTHONPATH=. /tmp/tv/bin/python benchmarks/model_tables.py [NAME ...]

With names, only those are traced again. A row of a table is
`[kind, count, m, n, k, groups, window, stride, repeats, read, written]` for a product or
convolution and `[kind, count, read, written]` for the rest, in numbers (not bytes). `fused` is
what inference runtimes do inside the convolution before it (batch norm behind one, activations,
residual additions, gates); `norm` are other norms and softmax, which stay in floats where the
rest is rounded.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from model_networks.catalogue import catalogue
from torch import nn

TARGET = Path(__file__).parent.parent / "mixq" / "predict" / "models" / "networks.json"
FUSED = (
    "batch_norm", "relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "mul", "add",
    "clamp", "leaky_relu", "elu", "prelu", "mish", "tanh", "threshold", "div", "sub", "dropout",
)  # fmt: skip
"""Beginnings of the operators that a runtime fuses into the convolution before them."""


def rows(model: nn.Module, size: tuple[int, ...]) -> tuple[list[list[Any]], int, int]:
    """The operations of one forward pass, parameters and multiply-accumulates."""
    from mixq.graph.build import build_graph

    torch.manual_seed(0)
    graph = build_graph(model.eval(), lambda: model(torch.randn(1, *size)))
    if graph.lost:
        print("   lost:", graph.lost[0][:100])
    counts: Counter[tuple[Any, ...]] = Counter()
    for node, data in graph.digraph.nodes(data=True):
        work, op = data["work"], data["op"].removeprefix("aten.").split(".")[0].strip("_")
        read, written = work.input_bytes // 4, work.output_bytes // 4
        if work.kind in ("conv", "gemm", "attention", "recurrent"):
            window, stride = "x".join(map(str, work.window)), "x".join(map(str, work.stride))
            repeats = work.repeats
            counts[
                (
                    work.kind,
                    work.m,
                    work.n,
                    work.k,
                    work.groups,
                    window,
                    stride,
                    repeats,
                    read,
                    written,
                )
            ] += 1
            continue
        before = [
            graph.digraph.nodes[each]["work"].kind for each in graph.digraph.predecessors(node)
        ]
        plain = op.removeprefix("native_").removeprefix("_")
        fused = plain.startswith(FUSED) and not ("batch_norm" in op and "conv" not in before)
        kind = "fused" if fused else "norm" if "norm" in op or "softmax" in op else "other"
        counts[(kind, read, written)] += 1
    return (
        [[key[0], count, *key[1:]] for key, count in counts.items()],
        graph.parameters,
        graph.macs,
    )


def main(names: list[str]) -> None:
    """Trace the named networks, or all."""
    known = catalogue()
    tables = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    for name in names or [each for each in known if each not in tables]:
        build, size, source = known[name]
        try:
            ops, parameters, macs = rows(build(), size)
        except Exception as error:  # a script: say which, go on with the rest
            print(f"{name}: {type(error).__name__}: {error}")
            continue
        tables[name] = {
            "source": source,
            "input": "x".join(map(str, size)),
            "parameters": parameters,
            "macs": macs,
            "operations": ops,
        }
        about = f"{parameters / 1e6:8.2f} M {macs / 1e9:8.3f} GMAC {len(ops)} rows"
        print(f"{name:28s} {'x'.join(map(str, size)):>14s} {about}")
    lines = []
    for name, table in sorted(tables.items()):
        rest = {key: value for key, value in table.items() if key != "operations"}
        head = json.dumps(rest, separators=(",", ":"))[:-1]
        rows_text = json.dumps(table["operations"], separators=(",", ":"))
        lines.append(f'"{name}":{head},"operations":{rows_text}}}')
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
