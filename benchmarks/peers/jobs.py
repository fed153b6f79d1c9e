"""Which jobs are run on which model, with what settings, in which environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

Kind = Literal["mixed", "uniform", "recipe"]
"""Whether a tool searches widths from data, has one for all, or a fixed list by layer name."""


@dataclass(frozen=True)
class Job:
    """A tool with a setting.

    Attributes:
        tool: as the tables call it.
        script: in benchmarks/peers.
        setting: as the tables call it.
        options: what the script is given.
        kind: how it comes to its widths.
        venv: name of its environment; that of mixq itself if empty.
        paired: whether mixq is asked for a plan of no more bytes.
    """

    tool: str
    script: str
    setting: str
    options: dict[str, Any] = field(default_factory=dict)
    kind: Kind = "mixed"
    venv: str = "torch"
    paired: bool = True


def nncf(setting: str, kind: Kind = "mixed", paired: bool = True, **options: Any) -> Job:
    """NNCF with groups of 64, zero points, and scales estimated from the calibration."""
    return Job("NNCF", "nncf_job.py", setting, options, kind, paired=paired)


INT4: Final = {"mode": "INT4_ASYM", "group_size": 64, "scale_estimation": True}

JOBS: Final[dict[str, tuple[Job, ...]]] = {
    "efficientnet_lite0": (
        Job(
            "MCT", "mct_job.py", "8, 4, 2 bits; 2.3 MB of codes", {"weights_memory": 2_300_000},
            venv="mct",
        ),
        nncf("4 bits where it can, 8 bits else", **INT4, ratio=1.0, all_layers=True),
        Job("optimum-quanto", "quanto_job.py", "qint4", {"weights": "qint4"}, "uniform"),
    ),
    "minilm": (
        nncf(
            "4 and 8 bits, ratio 0.8, activation variance", **INT4, ratio=0.8, all_layers=True,
            metric="MAX_ACTIVATION_VARIANCE",
        ),
        nncf("4 bits, every layer", "uniform", **INT4, ratio=1.0, all_layers=True),
        Job(
            "optimum-quanto", "quanto_job.py", "qint4 by HQQ",
            {"weights": "qint4", "optimizer": "hqq"}, "uniform", paired=False,
        ),
    ),
    "smollm2": (
        Job(
            "mlx-lm dynamic_quant", "mlx_job.py", "4 and 8 bits, 5 bits per weight",
            {"target_bpw": 5.0, "low": 4, "high": 8, "group_size": 64}, venv="",
        ),
        Job("llama.cpp", "llamacpp_job.py", "Q4_K_M", {"recipe": "Q4_K_M"}, "recipe", ""),
        Job("llama.cpp", "llamacpp_job.py", "Q3_K_M", {"recipe": "Q3_K_M"}, "recipe", "", False),
        nncf(
            "4 and 8 bits, ratio 0.8, activation variance", paired=False, **INT4, ratio=0.8,
            metric="MAX_ACTIVATION_VARIANCE",
        ),
        Job(
            "AutoRound AutoScheme", "autoround_job.py", "W4A16, W8A16; 5 bits, no iterations",
            {"avg_bits": 5.0, "options": "W4A16,W8A16", "iters": 0}, paired=False,
        ),
    ),
}  # fmt: skip
"""By model."""

MIXQ: Final[dict[str, Job]] = {
    "efficientnet_lite0": Job(
        "mixq", "mixq_job.py", "folded, sketched, 2 trials",
        {"equalize": "fold", "trials": 2, "rounds": 0, "sensitivity": "sketch"}, venv="",
    ),
    "minilm": Job(
        "mixq", "mixq_job.py", "sketched, 2 trials",
        {"trials": 2, "rounds": 0, "samples": 16, "sensitivity": "sketch"}, venv="",
    ),
    "smollm2": Job(
        "mixq", "mixq_job.py", "groups of 64, sketched, 2 trials",
        {
            "palette": {"bits": [32, 8, 4, 2], "group_sizes": [64]}, "trials": 2, "samples": 4,
            "rounds": 0, "sensitivity": "sketch", "metric": "kl",
        },
        venv="",
    ),
}  # fmt: skip
"""The searches of mixq, each at the bytes that a tool ended at."""
