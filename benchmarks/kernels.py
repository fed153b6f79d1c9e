"""Time of ONNX Runtime's products with packed weights over fp32's: bits, blocks, accuracy levels.

    OMP_NUM_THREADS=1 python benchmarks/kernels.py

CPU time of one thread, medians of ratios in interleaved rounds; what `mixq.export.onnx.kernel`
orders its kernels by.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SHAPES = ((384, 1536), (576, 1536))
ROUNDS = 30
RNG = np.random.default_rng(0)


def session(nodes: list[Any], arrays: dict[str, Any], columns: int, rows: int) -> Any:
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", rows])],
        initializer=[numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    data = model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def packed(columns: int, rows: int, bits: int, block: int, level: int) -> Any:
    blocks = -(-columns // block)
    arrays = {
        "codes": RNG.integers(0, 256, (rows, blocks, block * bits // 8)).astype(np.uint8),
        "scales": np.full((rows, blocks), 0.01, np.float32),
    }
    attributes = {
        "K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": level,
    }  # fmt: skip
    node = helper.make_node(
        "MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft", **attributes
    )
    return session([node], arrays, columns, rows)


def main() -> None:
    print("| columns x rows, rows of x | kernel | time / fp32 |\n|---|---|---|")
    for columns, rows in SHAPES:
        weights = {"w": RNG.standard_normal((columns, rows)).astype(np.float32)}
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        sessions = {"fp32": session([node], weights, columns, rows)}
        for bits in (8, 4, 2):
            for block in (16, 32, 64, 128):
                name = f"{bits} bits, block {block}"
                sessions[f"{name}, int8 activations"] = packed(columns, rows, bits, block, 4)
            sessions[f"{bits} bits, block 64, floats"] = packed(columns, rows, bits, 64, 0)
        for count in (1, 16):
            x = RNG.standard_normal((count, columns)).astype(np.float32)
            ratios: dict[str, list[float]] = {name: [] for name in sessions}
            for _ in range(ROUNDS):
                seconds = {}
                for name, item in sessions.items():
                    item.run(None, {"x": x})
                    start = time.process_time_ns()
                    for _ in range(3):
                        item.run(None, {"x": x})
                    seconds[name] = time.process_time_ns() - start
                for name, value in seconds.items():
                    ratios[name].append(value / seconds["fp32"])
            for name, values in ratios.items():
                print(
                    f"| {columns} x {rows}, {count} | {name} | {statistics.median(values):.2f} |"
                )


if __name__ == "__main__":
    main()
