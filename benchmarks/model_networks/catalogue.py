"""Every network with its input and where it comes from."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from model_networks.blocks import mobilenet_v1
from model_networks.classifiers import (
    arcface_r100,
    caffe_alexnet,
    emotion_ferplus,
    googlenet,
    inception_v2,
    peleenet,
    resnet_v1,
    shufflenet_v1,
    zfnet,
)
from model_networks.detectors import (
    squeezenet_ssd,
    ssd_mobilenet_v1,
    ssd_mobilenet_v2,
    ssd_resnet34,
    ssd_resnet50,
    ssd_vgg16,
    ultraface,
)
from model_networks.libraries import timm, torchvision
from model_networks.others import Reading, Speech, duc, super_resolution, unet
from model_networks.regions import faster_rcnn, faster_rcnn_fpn
from model_networks.yolo import yolov2, yolov3, yolov3_tiny, yolov4

IMAGE = (3, 224, 224)
Entry = tuple[Callable[[], nn.Module], tuple[int, ...], str]


def catalogue() -> dict[str, Entry]:
    """Name -> how to build it, its input, where it comes from."""
    found: dict[str, Entry] = {}

    def tv(name: str, of: str | None = None, size: int = 224) -> None:
        found[name] = (
            lambda: torchvision.models.get_model(of or name, weights=None),
            (3, size, size),
            f"torchvision {of or name}",
        )

    def tm(name: str, of: str, size: int = 224) -> None:
        found[name] = (
            lambda: timm.create_model(of, pretrained=False),
            (3, size, size),
            f"timm {of}",
        )

    def own(name: str, build: Callable[[], nn.Module], size: tuple[int, ...] = IMAGE) -> None:
        found[name] = (
            build,
            size,
            " ".join((build.__doc__ or "").split()) or "benchmarks/model_tables_networks.py",
        )

    for name in (
        "vgg11",
        "vgg13",
        "vgg16",
        "vgg19",
        "vgg16_bn",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "wide_resnet50_2",
        "wide_resnet101_2",
        "densenet121",
        "densenet161",
        "densenet169",
        "densenet201",
        "squeezenet1_0",
        "squeezenet1_1",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
        "shufflenet_v2_x1_0",
        "shufflenet_v2_x0_5",
        "mnasnet1_0",
        "regnet_y_400mf",
        "alexnet",
    ):
        tv(name)
    for index, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600)):
        tv(f"efficientnet_b{index}", size=size)
    for index, size in enumerate((224, 240, 260, 280, 300)):
        tm(f"efficientnet_lite{index}", f"tf_efficientnet_lite{index}", size)
    tm("efficientnetv2_b0", "tf_efficientnetv2_b0")
    tm("efficientnetv2_s", "tf_efficientnetv2_s", 384)
    tm("resnest50", "resnest50d")
    tm("seresnext50_32x4d", "legacy_seresnext50_32x4d")
    tm("seresnet50", "legacy_seresnet50")
    tm("inception_v3", "inception_v3", 299)
    tm("inception_v4", "inception_v4", 299)
    tm("inception_resnet_v2", "inception_resnet_v2", 299)
    tm("xception", "legacy_xception", 299)
    tm("ghostnet", "ghostnet_100")
    tm("darknet53", "darknet53", 256)
    tm("convnext_tiny", "convnext_tiny")
    tm("efficientnet_lite4_zoo", "tf_efficientnet_lite4")
    tm("swin_tiny", "swin_tiny_patch4_window7_224")
    tm("swin_base", "swin_base_patch4_window7_224")
    tv("resnet50_small", "resnet50", 32)
    for index in range(1, 8):
        tv(f"efficientnet_b{index}_224", f"efficientnet_b{index}")
    for width in (50, 101, 152):
        tm(f"resnet_v2_{width}", f"resnetv2_{width}")
    own("resnet50_v1", lambda: resnet_v1(3, 4, 6, 3))
    own("resnet101_v1", lambda: resnet_v1(3, 4, 23, 3))
    own("resnet152_v1", lambda: resnet_v1(3, 8, 36, 3))
    own("mobilenet_v1", lambda: nn.Sequential(*mobilenet_v1()))
    tm("proxylessnas", "fbnetc_100")
    for name, build, size in (
        ("caffenet", caffe_alexnet, IMAGE),
        ("zfnet", zfnet, IMAGE),
        ("googlenet", googlenet, IMAGE),
        ("inception_v2", inception_v2, IMAGE),
        ("shufflenet_v1", shufflenet_v1, IMAGE),
        ("peleenet", peleenet, IMAGE),
        ("arcface_r100", arcface_r100, (3, 112, 112)),
        ("emotion_ferplus", emotion_ferplus, (1, 64, 64)),
        ("ssd_mobilenet_v1", ssd_mobilenet_v1, (3, 300, 300)),
        ("ssd_mobilenet_v2", ssd_mobilenet_v2, (3, 300, 300)),
        ("squeezenet_ssd", squeezenet_ssd, (3, 300, 300)),
        ("ssd_resnet34", ssd_resnet34, (3, 1200, 1200)),
        ("ssd_vgg16", ssd_vgg16, (3, 300, 300)),
        ("ssd_resnet50", ssd_resnet50, (3, 640, 640)),
        ("yolov3", yolov3, (3, 416, 416)),
        ("yolov3_tiny", yolov3_tiny, (3, 416, 416)),
        ("yolov4", yolov4, (3, 416, 416)),
        ("ultraface", ultraface, (3, 240, 320)),
        ("duc", duc, (3, 800, 800)),
        ("unet", unet, (3, 256, 256)),
        ("super_resolution", super_resolution, (1, 224, 224)),
    ):
        own(name, build, size)
    own("inception_v1", lambda: googlenet(lrn=False))
    own("rnnt", Speech, (250, 240))
    own("bidaf", Reading, (60, 100))
    own("yolov2", lambda: yolov2(tiny=False), (3, 416, 416))
    own("yolov2_tiny", lambda: yolov2(tiny=True), (3, 416, 416))
    own("faster_rcnn_resnet50", lambda: faster_rcnn((3, 4, 6, 3)), (3, 600, 800))
    own("faster_rcnn_resnet101", lambda: faster_rcnn((3, 4, 23, 3)), (3, 600, 800))
    own("mask_rcnn_resnet50", lambda: faster_rcnn((3, 4, 6, 3), mask=True), (3, 800, 1365))
    own("faster_rcnn_r50_fpn", lambda: faster_rcnn_fpn(mask=False), (3, 800, 1088))
    own("mask_rcnn_r50_fpn", lambda: faster_rcnn_fpn(mask=True), (3, 800, 1088))
    own(
        "fcn_resnet50",
        lambda: torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None),
        (3, 520, 520),
    )
    own(
        "deeplabv3_resnet50",
        lambda: torchvision.models.segmentation.deeplabv3_resnet50(
            weights=None, weights_backbone=None
        ),
        (3, 520, 520),
    )
    return found
