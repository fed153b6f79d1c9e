"""Models from a `.pt2` file of torch.export."""

from __future__ import annotations

import io
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import load_pt2
from torch.fx import GraphModule, Node

from mixq.errors import SourceError
from mixq.files import is_regular
from mixq.sources.loaded import LoadedModel
from mixq.sources.pt2_archive import checked_archive
from mixq.sources.reason import reason


def load_exported(path: Path) -> LoadedModel:
    """The module of an exported program, in eval mode.

    torch.export.load unpickles and evaluates what it finds in the file. What torch gets to read
    here is a copy in memory of the parts that were inspected and hold data only.

    Raises:
        SourceError: if the file is damaged, holds pickled objects or code, was exported in
            training mode, or torch cannot read it.
        MissingExtraError: for a model of transformers without transformers.
    """
    if not is_regular(path):
        raise SourceError(f"file {str(path)!r} does not exist; pass what torch.export.save wrote")
    archive = checked_archive(path)
    if archive.output_classes:
        from mixq.sources.huggingface import import_output_classes

        import_output_classes(archive.output_classes)
    try:
        # Not torch.export.load: that logs a traceback and hides the error behind another one.
        programs = load_pt2(io.BytesIO(archive.content)).exported_programs
        program = next(iter(programs.values()))
        # Guards are Python source from the file, and only repeat what the graph requires.
        module = program.module(check_guards=False)
    except (
        # What torch 2.13 raises for archives that other versions wrote or that are damaged.
        RuntimeError,
        AssertionError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
    ) as error:
        raise SourceError(
            f"{str(path)!r} cannot be read by this torch: {reason(error)}; "
            "export the model again with the torch that is installed"
        ) from error
    return LoadedModel(
        name=path.stem, model=_in_eval_mode(module), batch_size=_fixed_batch_size(program)
    )


def _fixed_batch_size(program: ExportedProgram) -> int | None:
    """First dimension of the inputs, if they share one and it was exported as a constant."""
    inputs = set(program.graph_signature.user_inputs)
    sizes = [
        _shape(node)[0]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in inputs and _shape(node)
    ]
    # A dynamic dimension is a SymInt, which is no int.
    first = sizes[0] if sizes else None
    return (
        first
        if type(first) is int and all(type(size) is int and size == first for size in sizes)
        else None
    )


def _shape(node: Node) -> tuple[object, ...]:
    """Shape of an input of a graph; empty for what is no tensor."""
    return tuple(getattr(node.meta.get("val"), "shape", ()))


def _in_eval_mode(module: GraphModule) -> nn.Module:
    """An exported graph marked as being in eval mode, with an eval() that works.

    torch.export shadows train() and eval() with functions that refuse, because the mode is
    written into the graph. It was checked to be eval mode, so calling eval() is harmless.
    """
    for name in ("train", "eval"):
        module.__dict__.pop(name, None)
    return module.eval()
