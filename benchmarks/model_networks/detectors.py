"""Detectors in one pass."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as nnf

from model_networks.blocks import Outputs, cbr, depthwise, mobilenet_v1, stages_v1, stem
from model_networks.libraries import torchvision


def ssd_heads(sizes: list[int], boxes: list[int], classes: int, k: int) -> list[list[nn.Module]]:
    return [
        [nn.Conv2d(i, 4 * b, k, 1, k // 2), nn.Conv2d(i, classes * b, k, 1, k // 2)]
        for i, b in zip(sizes, boxes, strict=True)
    ]


def ssd_mobilenet_v1(classes: int = 91) -> nn.Module:
    """ssd_mobilenet_v1_coco of TensorFlow's object detection zoo, 300x300 (ncnn's mobilenet_ssd
    is Caffe's twin of 21 classes)."""
    stages = [
        nn.Sequential(*mobilenet_v1(top=False)),
        nn.Sequential(depthwise(512, 1024, 2), depthwise(1024, 1024)),
        nn.Sequential(cbr(1024, 256), cbr(256, 512, 3, 2)),
        nn.Sequential(cbr(512, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 64), cbr(64, 128, 3, 2)),
    ]
    return Outputs(
        stages, ssd_heads([512, 1024, 512, 256, 256, 128], [3, 6, 6, 6, 6, 6], classes, 1)
    )


def ssd_mobilenet_v2() -> nn.Module:
    """ssd_mobilenet_v2_coco, 300x300."""
    body = torchvision.models.mobilenet_v2().features
    stages = [
        nn.Sequential(*body[:14], body[14].conv[0]),
        nn.Sequential(*body[14].conv[1:], *body[15:]),
        nn.Sequential(cbr(1280, 256), cbr(256, 512, 3, 2)),
        nn.Sequential(cbr(512, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 64), cbr(64, 128, 3, 2)),
    ]
    return Outputs(stages, ssd_heads([576, 1280, 512, 256, 256, 128], [3, 6, 6, 6, 6, 6], 91, 1))


def squeezenet_ssd() -> nn.Module:
    """ncnn's squeezenet_ssd: SqueezeNet 1.1 at 300x300 with six heads of 21 classes."""
    body = torchvision.models.squeezenet1_1().features
    stages = [
        nn.Sequential(*body[:10]),
        body[10:],
        nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), cbr(512, 512, 3)),
        nn.Sequential(cbr(512, 256), cbr(256, 512, 3, 2)),
        nn.Sequential(cbr(512, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 2)),
    ]
    sizes = [384, 512, 512, 512, 256, 256]
    return Outputs(stages, ssd_heads(sizes, [4, 6, 6, 6, 4, 4], 21, 3))


def ssd_resnet34() -> nn.Module:
    """MLPerf's large SSD, 1200x1200, 81 classes: ResNet-34 whose last stage keeps stride 1 and
    stops at 256 channels."""
    body = torchvision.models.resnet34()
    layer3 = body.layer3
    layer3[0].conv1.stride = (1, 1)
    layer3[0].downsample[0].stride = (1, 1)
    stages: list[nn.Module] = [
        nn.Sequential(
            body.conv1, body.bn1, body.relu, body.maxpool, body.layer1, body.layer2, layer3
        )
    ]
    for i, middle, o, s, p in (
        (256, 256, 512, 2, 1),
        (512, 256, 512, 2, 1),
        (512, 128, 256, 2, 1),
        (256, 128, 256, 2, 0),
        (256, 128, 256, 2, 0),
    ):
        stages.append(nn.Sequential(cbr(i, middle), cbr(middle, o, 3, s, p)))
    heads = ssd_heads([256, 512, 512, 256, 256, 256], [4, 6, 6, 6, 4, 4], 81, 3)
    for index, pair in enumerate(heads):  # the strides of MLPerf's heads
        stride = (3, 3, 2, 2, 2, 2)[index]
        for head in pair:
            assert isinstance(head, nn.Conv2d)
            head.stride = (stride, stride)
    return Outputs(stages, heads)


def ssd_vgg16(classes: int = 81) -> nn.Module:
    """SSD300 (Liu et al. 2016)."""
    body = torchvision.models.vgg16().features
    stages = [
        body[:23],
        nn.Sequential(
            *body[23:30],
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(512, 1024, 3, 1, 6, 6),
            nn.ReLU(),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(),
        ),
        nn.Sequential(cbr(1024, 256), cbr(256, 512, 3, 2)),
        nn.Sequential(cbr(512, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 1, 0)),
        nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 1, 0)),
    ]
    return Outputs(
        stages, ssd_heads([512, 1024, 512, 256, 256, 256], [4, 6, 6, 6, 4, 4], classes, 3)
    )


class Pyramid(nn.Module):
    """Feature pyramid of RetinaNet with shared towers of four 3x3 convolutions (`depth`)."""

    def __init__(
        self,
        body: list[nn.Module],
        sizes: tuple[int, int, int],
        classes: int,
        boxes: int,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.body = nn.ModuleList(body)
        self.lateral = nn.ModuleList([nn.Conv2d(i, 256, 1) for i in sizes])
        self.smooth = nn.ModuleList([cbr(256, 256, 3) for _ in range(3)])
        self.p6, self.p7 = cbr(256, 256, 3, 2), cbr(256, 256, 3, 2)

        def tower(o: int) -> nn.Module:
            return nn.Sequential(
                *(cbr(256, 256, 3) for _ in range(depth)), nn.Conv2d(256, o, 3, 1, 1)
            )

        self.heads = nn.ModuleList([tower(4 * boxes), tower(classes * boxes)])

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for index, stage in enumerate(self.body):
            x = stage(x)
            if index > 0:
                found.append(x)
        levels: list[Tensor] = []
        above = None
        for lateral, smooth, level in zip(
            reversed(self.lateral), self.smooth, reversed(found), strict=True
        ):
            y = lateral(level)
            above = y if above is None else y + nnf.interpolate(above, size=y.shape[2:])
            levels.append(smooth(above))
        levels += [self.p6(levels[0]), self.p7(self.p6(levels[0]))]
        return [head(level) for head in self.heads for level in levels]


def ssd_resnet50(size: int = 640) -> nn.Module:
    """ssd_resnet50_v1_fpn_shared_box_predictor_640x640_coco14 of TensorFlow's object detection
    zoo."""
    one, *rest = stages_v1((3, 4, 6, 3))
    return Pyramid([nn.Sequential(stem(), one), *rest], (512, 1024, 2048), 91, 6)


def ultraface() -> nn.Module:
    """Ultra-Light-Fast-Generic-Face-Detector-1MB, version-RFB-320 (its RFB module as two
    depthwise blocks)."""
    stages = [
        nn.Sequential(
            cbr(3, 16, 3, 2),
            depthwise(16, 32),
            depthwise(32, 32, 2),
            depthwise(32, 32),
            depthwise(32, 64, 2),
            depthwise(64, 64),
            depthwise(64, 64),
            depthwise(64, 64),
        ),
        nn.Sequential(depthwise(64, 128, 2), depthwise(128, 128), depthwise(128, 128)),
        nn.Sequential(depthwise(128, 256, 2), depthwise(256, 256)),
        nn.Sequential(cbr(256, 64), depthwise(64, 256, 2)),
    ]
    heads = [
        [depthwise(i, 4 * b), depthwise(i, 2 * b)]
        for i, b in ((64, 3), (128, 2), (256, 2), (256, 3))
    ]
    return Outputs(stages, heads)
