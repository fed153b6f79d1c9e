"""Sony's Model Compression Toolkit: 8, 4 and 2 bits by its integer program over weight bytes.

Setting: {"weights_memory": N}. The chip is its own IMX500 with activations left in floats, since
nothing else in the comparison rounds them. MCT folds batch norms and corrects biases, so its model
is another network than the original's: it runs the kit's inputs itself.
"""

from __future__ import annotations

import torch
from kit import INPUTS, arguments, finish
from safetensors.torch import load_file
from torch import nn

# PyPI's torchvision is built for CUDA and loads no operators beside a torch for CPUs, but MCT
# imports it for the layers of object detectors; declared, they are never called here.
operators = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import model_compression_toolkit as mct  # noqa: E402
from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0 import (  # noqa: E402
    tpc,
)


def with_plain_convolutions(module: nn.Module) -> None:
    """Padding and convolution as two modules of torch's own, which MCT's rules know by type."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            plain = nn.Conv2d(
                child.in_channels, child.out_channels, child.kernel_size, child.stride,
                groups=child.groups, bias=child.bias is not None,
            )  # fmt: skip
            plain.load_state_dict(child.state_dict())
            setattr(module, name, nn.Sequential(child.static_padding, plain))
        else:
            with_plain_convolutions(child)


kit, setting, output = arguments()
model = kit.model()
batches = [batch["input"].numpy() for batch in kit.batches()]
probe = torch.from_numpy(batches[0])
with torch.no_grad():
    before = model(probe)
    with_plain_convolutions(model)
    assert torch.equal(model.eval()(probe), before)
base, widths, default = tpc.get_op_quantization_configs()
base, default, *widths = (
    config.clone_and_edit(enable_activation_quantization=False)
    for config in (base, default, *widths)
)
quantized, information = mct.ptq.pytorch_post_training_quantization(
    model,
    lambda: ([batch] for batch in batches),
    target_resource_utilization=mct.core.ResourceUtilization(
        weights_memory=setting["weights_memory"]
    ),
    core_config=mct.core.CoreConfig(
        mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig(num_of_images=32)
    ),
    target_platform_capabilities=tpc.generate_tpc(default, base, widths, "imx500_weights"),
)
stored, counts = 0, {}
for module in quantized.modules():
    for key, quantizer in getattr(module, "weights_quantizers", {}).items():
        numbers = getattr(module, key).numel()
        # Codes, and one float32 threshold for each channel.
        stored += numbers * quantizer.num_bits // 8 + 4 * quantizer.threshold_np.size
        stored -= 4 * numbers  # that are still there as floats, and counted below
        counts[quantizer.num_bits] = counts.get(quantizer.num_bits, 0) + 1
stored += sum(4 * p.numel() for p in {id(p): p for p in quantized.parameters()}.values())
with torch.no_grad():
    outputs = [quantized(part) for part in load_file(kit.folder / INPUTS)["input"].split(20)]
note = ", ".join(f"{count} at {bits} bits" for bits, count in sorted(counts.items()))
note += (
    f"; asked for {setting['weights_memory']:,} bytes, "
    f"{information.final_resource_utilization.weights_memory:,.0f} by its own count"
)
finish(output, "model-compression-toolkit", stored, {"output": torch.cat(outputs)}, note)
