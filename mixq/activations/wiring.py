"""Quantized inputs in a model: from a format to a function, and the function before a module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from mixq.activations.fake import fake_blocks, fake_dynamic, fake_static
from mixq.activations.inputs import input_of
from mixq.activations.inputs import quantizable_inputs as quantizable_inputs
from mixq.errors import ArtifactError, FormatError, ModelError, UsageError
from mixq.formats import Format

Quantizer: TypeAlias = Callable[[Tensor], Tensor]
Per = Literal["tensor", "token", "block"]


def granularity(fmt: Format, module: nn.Module) -> Per:
    """What one dynamic range covers when ONNX Runtime runs `fmt` in `module`.

    Weights with groups are multiplied by MatMulNBits, which takes a range for each block of a
    row; weights with a scale per channel by MatMulInteger, whose inputs DynamicQuantizeLinear
    rounds with one range for the tensor, and convolutions always so. "token" is no choice of
    ONNX Runtime's: a caller that measures for ExecuTorch or torchao asks for it.
    """
    convolution = isinstance(module, _ConvNd)
    return "tensor" if fmt.group_size is None or convolution else "block"


def input_quantizer(
    fmt: Format, tensors: Mapping[str, Tensor], *, per: Per = "tensor"
) -> Quantizer:
    """The function that rounds the inputs of a unit stored in `fmt`.

    Args:
        fmt: a format with `dynamic` or `static` activations.
        tensors: what is stored of the unit; `input_scale` (float32) and `input_zero` (uint8),
            both of shape (1,), are read for `static`, nothing for `dynamic`.
        per: what one dynamic range covers, see `granularity`; a block is a group of `fmt`.

    Raises:
        FormatError: if `fmt` leaves activations as they are, or has no groups to be blocks.
        ArtifactError: if the stored range is missing or malformed.
    """
    if fmt.activation == "static":
        scale, zero = _stored_range(fmt, tensors)
        return partial(_static, scale=scale, zero=zero)
    if fmt.activation == "none":
        raise FormatError(
            f"format {fmt.name} leaves activations as they are, so there is nothing to round; "
            "choose one with dynamic or static activations"
        )
    if per != "block":
        return partial(fake_dynamic, per=per)
    if fmt.group_size is None:
        raise FormatError(
            f"format {fmt.name} has no groups, so its inputs have no blocks; choose a format with "
            "a group size, or one range per tensor"
        )
    return partial(fake_blocks, size=fmt.group_size)


@contextlib.contextmanager
def quantized_inputs(model: nn.Module, quantizers: Mapping[str, Quantizer]) -> Iterator[None]:
    """Inputs of the named modules go through their quantizers; undone whatever happens.

    Works together with `torch.func.functional_call`. Arguments and errors are those of
    `install_quantizers`.
    """
    handles = install_quantizers(model, quantizers)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def install_quantizers(
    model: nn.Module, quantizers: Mapping[str, Quantizer]
) -> list[RemovableHandle]:
    """Let the inputs of the named modules go through their quantizers, from now on.

    Changes `model`: its modules get forward pre-hooks, none of them if one is refused. The first
    positional tensor of a call is replaced, or the only tensor given by keyword, after the hooks
    that a module has already. Modules that compute without being called are not reached, see
    `quantizable_inputs`.

    Args:
        model: any module.
        quantizers: by path of module as in `named_modules()`; "" is the model itself.

    Returns:
        What removes the hooks.

    Raises:
        ModelError: if there is no such module, or it takes no hooks.
        UsageError: if two paths lead to one module, whose input would be rounded twice.
    """
    chosen: dict[nn.Module, str] = {}
    for path in quantizers:
        module = _module(model, path)
        if module in chosen:
            raise UsageError(
                f"modules {chosen[module]!r} and {path!r} are one, but its input can be "
                "quantized only once; leave one of them out"
            )
        chosen[module] = path
    return [
        module.register_forward_pre_hook(_before(quantizers[path]), with_kwargs=True)
        for module, path in chosen.items()
    ]


def _before(
    quantizer: Quantizer,
) -> Callable[
    [nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]
]:
    """A forward pre-hook that replaces the input."""

    def replace(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return replaced_input(module, args, kwargs, quantizer)

    return replace


def replaced_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], quantizer: Quantizer
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with the module's input gone through `quantizer`."""
    place, value = input_of(module, args, kwargs)
    if isinstance(place, str):
        return args, {**kwargs, place: quantizer(value)}
    return (*args[:place], quantizer(value), *args[place + 1 :]), kwargs


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(
            f"model {type(model).__name__} has no module {path!r}, so its input cannot be "
            "quantized; name one that named_modules() lists"
        ) from error
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"module {path!r} is TorchScript, whose input cannot be replaced; leave its "
            "activations as they are"
        )
    return module


def _static(x: Tensor, *, scale: Tensor, zero: Tensor) -> Tensor:
    return fake_static(x, scale.to(x.device), zero.to(x.device))


def _stored_range(fmt: Format, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    scale, zero = tensors.get("input_scale"), tensors.get("input_zero")
    if scale is None or zero is None:
        raise ArtifactError(
            f"format {fmt.name} needs a stored input range, but input_scale or input_zero is "
            "missing; collect ranges on calibration data first"
        )
    kinds = (tuple(scale.shape), scale.dtype, tuple(zero.shape), zero.dtype)
    if kinds != ((1,), torch.float32, (1,), torch.uint8):
        raise ArtifactError(
            f"the stored input range is {scale.dtype} {tuple(scale.shape)} and {zero.dtype} "
            f"{tuple(zero.shape)}, but it must be torch.float32 (1,) and torch.uint8 (1,); "
            "write it again"
        )
    if not 0 < float(scale) < float("inf"):
        raise ArtifactError(
            f"the stored input scale is {float(scale):g}, but it must be positive and finite; "
            "write it again"
        )
    return scale, zero
