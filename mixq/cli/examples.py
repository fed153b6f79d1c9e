"""What stands below the help of each command: lines that can be typed as they are."""

from __future__ import annotations

from typing import Final

_LINES: Final[dict[str, tuple[str, ...]]] = {
    "": (
        "mixq search --target-compression 6 --hardware intel_cpu",
        "mixq export mixq-run/plan.json --runtime onnxruntime --output model.onnx",
        "mixq bench mixq-run/plan.json",
    ),
    "search": (
        "mixq search --target-compression 6 --hardware intel_cpu",
        "mixq search --recipe mobile_device --model my_pkg.models:load",
        "mixq search --model my_pkg.models:load --max-size-mb 5 --hardware arm_mobile",
        "mixq search --model ./minilm --calibration texts.txt --max-error 0.01 --hardware host",
        "mixq search --resume --pin 'head.*=8'",
    ),
    "analyze": (
        "mixq analyze",
        "mixq analyze --model my_pkg.models:load --bits 8,4 --samples 64",
        "mixq analyze --stream --model ./llama-folder --calibration texts.txt",
    ),
    "apply": ("mixq apply mixq-run/plan.json --output model.mixq.safetensors",),
    "export": (
        "mixq export mixq-run/plan.json --runtime onnxruntime --output model.onnx",
        "mixq export mixq-run/plan.json --model ./smollm --runtime gguf",
    ),
    "bench": (
        "mixq bench mixq-run/plan.json --threads 2",
        "mixq bench model.onnx mixq-run/plan.json --hardware host --output bench",
        "mixq bench --suite suite.toml --output bench",
    ),
    "evaluate": (
        "mixq evaluate mixq-run/plan.json",
        "mixq evaluate model.mixq.safetensors --model my_pkg.models:load",
    ),
    "report": ("mixq report mixq-run",),
    "plan": (
        "mixq plan show mixq-run/plan.json",
        "mixq plan diff first/plan.json second/plan.json",
    ),
    "plan show": ("mixq plan show mixq-run/plan.json",),
    "plan check": (
        "mixq plan check mixq-run/plan.json",
        "mixq plan check mixq-run/plan.json --model my_pkg.models:load",
    ),
    "plan diff": (
        "cp -r mixq-run second",
        "mixq search --resume --output second --pin 'classifier.*=8'",
        "mixq plan diff mixq-run/plan.json second/plan.json",
    ),
    "hardware": (
        "mixq hardware list",
        "mixq hardware show intel_cpu --runtime onnxruntime",
        "mixq hardware calibrate",
    ),
    "hardware list": ("mixq hardware list --all",),
    "hardware show": ("mixq hardware show intel_cpu --runtime onnxruntime",),
    "hardware calibrate": ("mixq hardware calibrate --threads 1",),
    "hardware predict": (
        "mixq hardware predict --hardware nvidia_a100 --m 16 --n 4096 --k 4096 --weight-bits 4 "
        "--activation-bits 16 --group-size 128",
        "mixq hardware predict --hardware intel_cpu --model-name BERT-base --sequence 128",
        "mixq hardware predict --hardware auto --rows measured.csv --output predicted.csv",
    ),
}


def examples(command: str = "") -> str:
    """The epilog of a command, named without `mixq`."""
    lines = _LINES[command]
    said = "Examples:" if len(lines) > 1 else "Example:"
    return "\n\n".join([said, *(f"`{line}`" for line in lines)])


def all_lines() -> list[str]:
    """Every line, for tests that see that the commands and options exist."""
    return [line for lines in _LINES.values() for line in lines]
