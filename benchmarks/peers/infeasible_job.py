"""What a tool says to a target that no choice of its widths reaches, on a network of its kind.

    python infeasible_job.py TOOL

prints one line: what was asked, then what came of it. Nothing is trained or loaded.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

import torch
from torch import nn


def mixq() -> tuple[str, str]:
    """100x on the demo, which keeps biases in 32 bits."""
    from mixq import search
    from mixq.errors import InfeasibleError
    from mixq.sources import load_model

    demo = load_model("demo")
    try:
        search(demo.model, demo.calibration, hardware="intel_cpu", target_compression=100)
    except InfeasibleError as error:
        return "100x", f"refused: {error}"
    return "100x", "accepted"


def mlx() -> tuple[str, str]:
    """3 bits per weight of 4 and 8."""
    import mlx.core as mx
    from mlx.nn import quantize
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.quant.dynamic_quant import estimate_sensitivities, estimate_threshold
    from mlx_lm.utils import compute_bits_per_weight

    model = Model(
        ModelArgs(
            model_type="llama", hidden_size=64, num_hidden_layers=2, intermediate_size=128,
            num_attention_heads=2, rms_norm_eps=1e-5, vocab_size=128,
        )
    )  # fmt: skip
    mx.eval(model.parameters())
    grids = (4, 64, 8, 64)
    scores = dict(estimate_sensitivities(model, mx.random.randint(0, 128, (2, 8)), *grids))
    threshold = estimate_threshold(model, scores, 3.0, *grids)

    def widths(path: str, module: Any) -> Any:
        known = hasattr(module, "to_quantized")
        return {"bits": 8, "group_size": 64} if known and scores[path] > threshold else known

    quantize(model, group_size=64, bits=4, class_predicate=widths)
    layers = tree_flatten(model.leaf_modules(), is_leaf=lambda m: hasattr(m, "parameters"))
    wide = sum(getattr(layer, "bits", 4) == 8 for _, layer in layers)
    reached = compute_bits_per_weight(model)
    return "3 bits per weight", f"accepted: {reached:.2f} stored, {wide} layers at 8 bits"


def mct() -> tuple[str, str]:
    """Half of what 2 bits take."""
    operators = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):  # see mct_job.py
        operators.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import model_compression_toolkit as tool
    from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0.tpc import (  # noqa: E501
        generate_tpc,
        get_op_quantization_configs,
    )

    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    codes = sum(m.weight.numel() for m in model if isinstance(m, nn.Conv2d))
    base, widths, default = get_op_quantization_configs()
    try:
        tool.ptq.pytorch_post_training_quantization(
            model,
            lambda: iter([[torch.randn(4, 3, 16, 16).numpy()]] * 4),
            target_resource_utilization=tool.core.ResourceUtilization(weights_memory=codes // 8),
            target_platform_capabilities=generate_tpc(default, base, widths, "imx500_weights"),
        )
    except Exception as error:
        return "1 bit per weight", f"refused: {type(error).__name__}: {error}"
    return "1 bit per weight", "accepted"


def autoround() -> tuple[str, str]:
    """3 bits of 4 and 8."""
    from auto_round.auto_scheme.gen_auto_scheme import AutoScheme, GenScheme

    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))
    scheme = AutoScheme(avg_bits=3.0, options="W4A16,W8A16")
    try:
        GenScheme(scheme, model, ["0", "1"], {}, tokenizer=object())
    except ValueError as error:
        return "3 bits per weight", f"refused: {error}"
    return "3 bits per weight", "accepted"


PACKAGES = {
    "mixq": "mixq", "mlx": "mlx-lm", "mct": "model-compression-toolkit", "autoround": "auto-round",
}  # fmt: skip

if __name__ == "__main__":
    name = sys.argv[1]
    asked, outcome = globals()[name]()
    print(f"INFEASIBLE\t{PACKAGES[name]}\t{version(PACKAGES[name])}\t{asked}\t{outcome}")
