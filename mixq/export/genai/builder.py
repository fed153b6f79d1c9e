"""Builder: onnxruntime-genai's own program, which makes an fp32 graph with a cache of attention.

It reads a Hugging Face folder, so the plan's floats go into one. It runs as a process of its own,
the way its makers document it (`python -m onnxruntime_genai.models.builder`): imported, it puts
modules named `builder`, `loaders` and `quantization` at the top of `sys.path`, prints to stdout
and changes what warnings are shown.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

from mixq.errors import ExportError, MissingExtraError
from mixq.export.hugging_face import unwritable
from mixq.export.source import Source
from mixq.files import one_line

NAME: Final = "onnxruntime-genai"
EXTRA: Final = "genai"
PACKAGES: Final = ("onnxruntime_genai", "onnxruntime", "onnx_ir", "transformers")
OPTIONS: Final = ("fuse_qkv=false", "fuse_mlp_gate_up=false", "hf_token=false", "hf_remote=false")
"""Units that the builder could fuse have widths of their own; nothing is fetched or executed."""
OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
TOKENIZER_FILES: Final = (
    "tokenizer*", "*.tiktoken", "vocab.*", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template*", "generation_config.json",
)  # fmt: skip
_DISPATCH: Final = re.compile(r'config\.architectures\[0\] == "(\w+ForCausalLM)"')
"""How builder.py asks for an architecture; it has no list of them."""


def check_installed() -> None:
    """Refuse to go on without what this runtime needs.

    Raises:
        MissingExtraError: naming the first package that is missing.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), EXTRA, f"runtime {NAME}")


def architectures() -> tuple[str, ...]:
    """Classes of causal language models that the installed builder knows, by name.

    Raises:
        MissingExtraError: if onnxruntime-genai is not installed.
    """
    check_installed()
    spec = find_spec("onnxruntime_genai")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "models" / "builder.py"
    return tuple(sorted(set(_DISPATCH.findall(source.read_text(encoding="utf-8")))))


def check_model(source: Source) -> None:
    """Refuse a model that the builder would not read, or a folder without a tokenizer.

    Raises:
        ExportError: naming the architectures that it knows, or the option that is missing.
    """
    known = architectures()
    name = type(source.model).__name__
    if name not in known:
        raise ExportError(
            f"the model is a {one_line(name)}, but the model builder of {NAME} knows "
            f"{', '.join(known)} of transformers; choose another runtime"
        )
    if not _tokenizer_files(source.folder):
        where = "no folder is known" if source.folder is None else one_line(source.folder)
        raise ExportError(
            f"{NAME} writes a tokenizer beside the model, but there is none ({where}); "
            "name a Hugging Face folder that has one by --tokenizer FOLDER"
        )
    before, after = set(source.model.state_dict()), set(source.restored.state_dict())
    if before != after:
        changed = one_line(", ".join(sorted(before ^ after)[:3]))
        raise ExportError(
            f"the plan adds or removes parameters ({changed}), which the configuration of "
            f"{one_line(name)} has no place for; plan without equalization and bias correction"
        )


def build(source: Source, work: Path) -> Path:
    """The builder's folder: model.onnx in fp32, genai_config.json, the tokenizer.

    Args:
        source: a model that `check_model` has passed.
        work: an empty folder, which takes about 8 bytes per weight.

    Raises:
        ExportError: if the builder fails, with its last line.
        OutputError: if there is no room for the weights as floats.
    """
    floats, built = work / "floats", work / "built"
    model: Any = source.restored
    with _without_progress():
        try:
            model.save_pretrained(floats)
        except SafetensorError as error:
            raise unwritable(floats, error) from error
    for file in _tokenizer_files(source.folder):
        shutil.copyfile(file, floats / file.name)
    command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder"]
    command += ["--input", str(floats), "--output", str(built), "--precision", "fp32"]
    command += ["--execution_provider", "cpu", "--cache_dir", str(work / "cache")]
    done = subprocess.run(
        [*command, "--extra_options", *OPTIONS],
        env=os.environ | OFFLINE,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    shutil.rmtree(floats)
    if done.returncode or not (built / "model.onnx").is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = one_line(lines[-1] if lines else f"exit status {done.returncode}")
        raise ExportError(
            f"the model builder of {NAME} refused the model: {reason}; choose another runtime"
        )
    return built


@contextmanager
def _without_progress() -> Iterator[None]:
    """Without transformers' own bars, which would run through those of a command."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _tokenizer_files(folder: Path | None) -> list[Path]:
    """Files that make a tokenizer; none unless one of them holds its vocabulary."""
    if folder is None:
        return []
    found = {file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)}
    files = sorted(file for file in found if file.is_file())
    vocabularies = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    has_vocabulary = any(f.name in vocabularies or f.suffix == ".tiktoken" for f in files)
    return files if has_vocabulary else []
