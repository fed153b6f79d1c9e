"""Rules: how the labels of activations go through the operators of torch.

The keys are names of ATen operators. An operator without a rule kills the labels of everything
that it reads, and so do the operands that a rule does not take.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from mixq.equalize.flow import Call, Rule
from mixq.equalize.labels import NONE, ZERO
from mixq.equalize.sites import Kind, Layout, Site


def _moved(call: Call) -> Tensor | None:
    """Run the operator on the labels."""
    operands = [leaf for leaf in tree_leaves(call.args) if isinstance(leaf, Tensor)]
    if all(call.take(leaf) is None for leaf in operands if leaf.is_floating_point()):
        return None

    def labels_of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not leaf.is_floating_point():
            return leaf.cpu()  # indices; labels are never on a device
        labels = call.take(leaf)
        return torch.full(leaf.shape, NONE) if labels is None else labels

    result: Tensor = call.func(*tree_map(labels_of, call.args), **call.kwargs)
    return result


def _kept(call: Call) -> Tensor | None:
    """An operator on each element of its first operand, homogeneous of degree one."""
    return call.take(call.args[0])


def _overwritten(call: Call) -> Tensor | None:
    """`copy_(target, source)`: what the target was does not matter."""
    target, source = call.args[0], call.args[1]
    call.taken.add(id(target))
    labels = call.take(source)
    return torch.full((1,), NONE) if labels is None else labels


def _padded(call: Call) -> Tensor | None:
    x, widths, *values = (*call.args, *call.kwargs.values())
    labels = call.take(x)
    if labels is None:
        return None
    fill = NONE if any(value != 0 for value in values) else ZERO
    return torch.constant_pad_nd(labels, widths, fill)


def _reduced(call: Call) -> Tensor | None:
    """Sums, means and maxima over some axes."""
    labels = call.take(call.args[0])
    if labels is None:
        return None
    axes = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    axes = tuple(range(labels.dim())) if not axes else tuple(axes)
    return call.constant(labels, axes).reshape(call.output.shape)


def _pooled(axes: int) -> Rule:
    """Means and maxima over windows of the last `axes` axes."""

    def rule(call: Call) -> Tensor | None:
        labels = call.take(call.args[0])
        if labels is None:
            return None
        return call.constant(labels, tuple(range(-axes, 0)))

    return rule


def _multiplied(call: Call) -> Tensor | None:
    left, right = call.args[:2]
    of_left, of_right = call.take(left), call.take(right)
    if of_left is not None and of_right is not None:
        call.kill(of_left)  # one factor at a time: the right one, as in gate * up
        return of_right
    if of_left is not None or of_right is not None:
        return of_right if of_left is None else of_left
    for factor in (left, right):
        weight = call.flow.parameters.whole(factor)
        if weight is not None and _is_last_axis(factor, call.output):
            return _outputs(call, "norm", weight, Layout(tuple(factor.shape), 0), None, -1)
    return None


def _divided(call: Call) -> Tensor | None:
    dividend, divisor = call.args[:2]
    if isinstance(divisor, Tensor):
        call.kill(call.flow.labels.of(divisor))  # which may be the dividend
    return call.take(dividend)


def _added(call: Call) -> Tensor | None:
    left, right = call.args[:2]
    if not call.flow.is_affine and isinstance(left, Tensor) and isinstance(right, Tensor):
        of_left, of_right = call.flow.labels.of(left), call.flow.labels.of(right)
        if of_left is not None and of_right is not None and of_left.shape == of_right.shape:
            if torch.equal(of_left, of_right):
                call.taken |= {id(left), id(right)}
                return of_left
            return None
    for offset, outputs in ((left, right), (right, left)):
        bias = call.flow.parameters.whole(offset)
        if bias is not None and not call.kwargs and _is_last_axis(offset, call.output):
            return _biased(call, bias, outputs)
    return None


def _biased(call: Call, bias: str, outputs: object) -> Tensor | None:
    """A bias that is added behind the product, where torch found that faster."""
    labels = call.flow.labels.of(outputs) if isinstance(outputs, Tensor) else None
    if labels is None or labels.shape != call.output.shape:
        return None
    columns = call.columns(labels, -1)
    for site in reversed(call.flow.sites):
        if site.first is not None and site.first == columns[0]:
            whole = torch.arange(site.first, site.first + site.channels)
            if site.bias is None and torch.equal(columns.long(), whole):
                site.bias = bias
                call.taken.add(id(outputs))
                return labels
    return None


def _convolution(call: Call) -> Tensor | None:
    x, weight, bias, _, padding, _, is_transposed, _, groups = call.args[:9]
    name = call.flow.parameters.whole(weight)
    if name is None:
        return None
    outputs, inputs = (1, 0) if is_transposed else (0, 1)
    layout = Layout(tuple(weight.shape), outputs, inputs, groups)
    labels = _outputs(call, "convolution", name, layout, bias, 1, x)
    # A transposed convolution has borders where fewer inputs meet, whatever its padding.
    call.flow.sites[-1].is_padded = bool(is_transposed) or any(padding)
    return labels


def _addmm(call: Call) -> Tensor | None:
    bias, x, matrix = call.args
    return None if call.kwargs else _linear(call, x, matrix, bias)


def _mm(call: Call) -> Tensor | None:
    x, matrix = call.args
    return _linear(call, x, matrix, None)


def _linear(call: Call, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor | None:
    """(m, inputs) x (inputs, outputs)."""
    weight = call.flow.parameters.whole(matrix)
    layout = Layout(tuple(matrix.shape), outputs=1, inputs=0)
    if weight is None:
        weight = call.flow.parameters.whole(matrix.t())
        layout = Layout(tuple(matrix.t().shape), outputs=0, inputs=1)
    if weight is None:
        return _product(call, x, matrix) if bias is None else None
    return _outputs(call, "linear", weight, layout, bias, -1, x)


def _bmm(call: Call) -> Tensor | None:
    return _product(call, *call.args[:2])


def _product(call: Call, left: Tensor, right: Tensor) -> Tensor | None:
    """(..., m, k) x (..., k, n) of two activations."""
    of_left, of_right = call.take(left), call.take(right)
    if of_right is not None:
        call.kill(of_left)
        return call.constant(of_right, (-2,))
    return None if of_left is None else call.constant(of_left, (-1,))


def _attention(call: Call) -> Tensor | None:
    """Every output is a mean of values; scores of queries and keys are not homogeneous."""
    query, key, value = call.args[:3]
    for scored in (query, key):
        call.kill(call.flow.labels.of(scored))  # which may be the value
    labels = call.take(value)
    if labels is None:
        return None
    labels = call.constant(labels, (-2,))
    if value.dim() > 2 and value.shape[-3] != call.output.shape[-3]:
        # Heads that share one value are neighbours (torch: `enable_gqa`).
        labels = labels.repeat_interleave(call.output.shape[-3] // value.shape[-3], dim=-3)
    return labels


def _layer_norm(call: Call) -> Tensor | None:
    _, normalized, weight, bias = call.args[:4]
    name = call.flow.parameters.whole(weight)
    if name is None or len(normalized) != 1:
        return None
    return _outputs(call, "norm", name, Layout(tuple(weight.shape), 0), bias, -1)


def _group_norm(call: Call) -> Tensor | None:
    _, weight, bias = call.args[:3]
    name = call.flow.parameters.whole(weight)
    if name is None:
        return None
    return _outputs(call, "norm", name, Layout(tuple(weight.shape), 0), bias, 1)


def _batch_norm(call: Call) -> Tensor | None:
    x, weight, bias = call.args[:3]
    name = call.flow.parameters.whole(weight)
    if weight is not None and name is None:
        return None
    inputs = x if call.flow.is_affine else None
    layout = Layout((x.shape[1],), 0, None if inputs is None else 0)
    return _outputs(call, "batch norm", name, layout, bias, 1, inputs)


def _outputs(
    call: Call,
    kind: Kind,
    weight: str | None,
    layout: Layout,
    bias: Tensor | None,
    axis: int,
    x: Tensor | None = None,
) -> Tensor | None:
    """Note a site whose channels are on one axis of its input and output; its new labels."""
    site = Site(kind, call.module, weight, layout)
    if x is not None:
        of_x = call.take(x)
        axis_of_x = call.columns(of_x, axis) if of_x is not None else None
        site.inputs = torch.full((x.shape[axis],), NONE) if axis_of_x is None else axis_of_x
    call.flow.sites.append(site)
    site.bias = call.flow.parameters.whole(bias)
    if bias is not None and (site.bias is None or bias.shape != (site.channels,)):
        return None
    site.first = call.flow.labels.fresh(site.channels)
    if site.first is None:
        return None
    shape = [1] * call.output.dim()
    shape[axis] = site.channels
    return torch.arange(site.first, site.first + site.channels, dtype=torch.float32).view(shape)


def _is_last_axis(parameter: object, output: Tensor) -> bool:
    if not isinstance(parameter, Tensor):
        return False
    return parameter.dim() == 1 and output.shape[-1:] == parameter.shape


AFFINE_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(
        (
            *("cat", "stack", "index", "_unsafe_index", "index_select", "gather", "repeat"),
            *("flip", "roll", "pixel_shuffle", "pixel_unshuffle"),
            *("channel_shuffle", "native_channel_shuffle"),
            *("reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
            *("replication_pad1d", "replication_pad2d", "replication_pad3d"),
            *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
        ),
        _moved,
    ),
    "clone": _kept,
    "_to_copy": _kept,
    "copy": _overwritten,
    "add": _added,
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _mm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
}
"""What keeps one affine map per channel: operators that move numbers."""

SCALE_RULES: Final[dict[str, Rule]] = {
    **AFFINE_RULES,
    **dict.fromkeys(("relu", "leaky_relu", "_prelu_kernel", "abs", "neg"), _kept),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduced),
    **dict.fromkeys(("avg_pool2d", "_adaptive_avg_pool2d", "max_pool2d_with_indices"), _pooled(2)),
    **dict.fromkeys(("avg_pool3d", "_adaptive_avg_pool3d", "max_pool3d_with_indices"), _pooled(3)),
    "constant_pad_nd": _padded,
    "mul": _multiplied,
    "div": _divided,
    "bmm": _bmm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}
"""What keeps one positive factor per channel."""
