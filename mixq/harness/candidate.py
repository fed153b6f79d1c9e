"""Candidate: what PLAN names, as a model that the harness can ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from torch import nn

from mixq.artifact import load as load_artifact
from mixq.errors import MissingExtraError, ModelError, SourceError, UsageError
from mixq.files import one_line
from mixq.harness.library import quiet, require
from mixq.harness.progress import Counter
from mixq.plan import Plan
from mixq.sources.huggingface import import_transformers, load_errors

GENAI_CONFIG: Final = "genai_config.json"


class Kind(StrEnum):
    """What a target is."""

    plan = "plan"
    artifact = "artifact"
    onnx = "onnx"
    genai = "genai"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model, and how to ask it.

    Attributes:
        name: `original`, or the target's file.
        about: provenance: kind, file, digest, the plan's fingerprint.
        build: makes the harness's model, given the texts to a batch and a counter.
    """

    name: str
    about: dict[str, object]
    build: Callable[[int, Counter], Any]


def kind_of(target: Path) -> Kind:
    """What a path holds, by its name.

    Raises:
        UsageError: if it is nothing that can be evaluated.
    """
    if target.is_dir():
        if (target / GENAI_CONFIG).is_file():
            return Kind.genai
        raise UsageError(
            f"folder {one_line(target)} has no {GENAI_CONFIG}, so onnxruntime-genai does not read "
            "it; name a plan.json, a .safetensors of mixq apply, or an .onnx file"
        )
    if not target.is_file():
        raise UsageError(
            f"{one_line(target)} does not exist; name a plan.json, a .safetensors of mixq "
            "apply, an .onnx file or a folder of onnxruntime-genai"
        )
    return {".safetensors": Kind.artifact, ".onnx": Kind.onnx}.get(target.suffix, Kind.plan)


def original(model: nn.Module, tokenizer: Any, name: str) -> Candidate:
    """The model as it was.

    Raises:
        ModelError: if it is no causal language model of transformers.
    """
    check_causal(model)
    about: dict[str, object] = {"kind": "original", "name": name}
    return Candidate("original", about, _torch(model, tokenizer, about))


def candidate(target: Path, model: nn.Module, tokenizer: Any, *, threads: int = 1) -> Candidate:
    """What `target` makes of the model.

    Args:
        target: plan.json, a file of `mixq apply`, an ONNX file, or a folder of onnxruntime-genai.
        model: the original.
        tokenizer: of the original.
        threads: of ONNX Runtime.

    Raises:
        UsageError: if it is none of these.
        PlanError, ArtifactError, ExportError: if it is damaged, or of another model.
        ModelError: if the original is no causal language model of transformers.
        MissingExtraError: without its runtime.
    """
    check_causal(model)
    kind = kind_of(target)
    about: dict[str, object] = {"kind": kind.value, "file": str(target)}
    if kind is not Kind.genai:
        with target.open("rb") as file:
            about["sha256"] = file_digest(file, "sha256").hexdigest()
    if kind is Kind.genai:
        return Candidate(target.name, about, _genai(target, about))
    if kind is Kind.onnx:
        return Candidate(target.name, about, _session(target, model, tokenizer, threads, about))
    if kind is Kind.artifact:
        quantized = load_artifact(target, model)
    else:
        plan = Plan.load(target)
        quantized = plan.apply(model)
        about["model_fingerprint"] = plan.model.fingerprint
        about["compression"] = plan.predicted.compression
    check_causal(quantized)
    return Candidate(target.name, about, _torch(quantized, tokenizer, about))


def check_causal(model: nn.Module) -> None:
    """Refuse what cannot be asked to write.

    Raises:
        ModelError: if it is no causal language model of transformers.
    """
    transformers = import_transformers()
    asked: Any = model
    able = isinstance(model, transformers.PreTrainedModel) and asked.can_generate()
    if not able or getattr(asked.config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} is no causal language model of transformers, and tasks ask "
            "those alone; pass --model FOLDER of one, or leave out --tasks"
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder; never a download, never its own code.

    Raises:
        SourceError: if it has none that loads.
        MissingExtraError: without transformers.
    """
    transformers = import_transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(folder.resolve()), local_files_only=True, trust_remote_code=False
        )
    except load_errors() as error:
        raise SourceError(
            f"folder {one_line(folder)} has no tokenizer that loads: {one_line(error, 160)}; pass "
            "--tokenizer FOLDER"
        ) from error


def _torch(
    model: nn.Module, tokenizer: Any, about: dict[str, object]
) -> Callable[[int, Counter], Any]:
    def build(batch_size: int, counter: Counter) -> Any:
        require()
        with quiet():
            from mixq.harness.torch_model import TorchLM

            return TorchLM(model, tokenizer, batch_size=batch_size, counter=counter, about=about)

    return build


def _session(
    target: Path, model: Any, tokenizer: Any, threads: int, about: dict[str, object]
) -> Callable[[int, Counter], Any]:
    from mixq.export.onnx.session import OnnxSession

    session = OnnxSession(target, threads=threads)

    def build(batch_size: int, counter: Counter) -> Any:
        require()
        with quiet():
            from mixq.harness.session_model import SessionModel
            from mixq.harness.torch_model import TorchLM

            asked = SessionModel(session, model.config, model.generation_config)
            return TorchLM(asked, tokenizer, batch_size=batch_size, counter=counter, about=about)

    return build


def _genai(target: Path, about: dict[str, object]) -> Callable[[int, Counter], Any]:
    def build(_batch_size: int, counter: Counter) -> Any:
        require()
        try:
            import onnxruntime_genai  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "onnxruntime-genai", "genai", "a folder of onnxruntime-genai"
            ) from error
        with quiet():
            from mixq.harness.genai_model import GenaiLM

            return GenaiLM(target, counter=counter, about=about)

    return build
