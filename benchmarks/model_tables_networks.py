"""The networks behind `model_tables.py`: from torchvision and timm, or short definitions where neither has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_register = torch.library.register_fake


def _lenient(name: str, *args: Any, **kwargs: Any) -> Any:
    # torchvision's own operators (nms, ...) are not in its wheel for another build of torch.
    return (
        (lambda function: function)
        if name.startswith("torchvision::")
        else _register(name, *args, **kwargs)
    )


torch.library.register_fake = _lenient  # type: ignore[assignment]
import timm  # noqa: E402
import torchvision  # noqa: E402

torch.library.register_fake = _register
IMAGE = (3, 224, 224)


def cbr(
    i: int,
    o: int,
    k: int | tuple[int, int] = 1,
    s: int = 1,
    p: int | tuple[int, int] | None = None,
    g: int = 1,
    act: bool = True,
) -> nn.Module:
    """Convolution, batch norm, ReLU."""
    pad = p if p is not None else (k // 2 if isinstance(k, int) else (k[0] // 2, k[1] // 2))
    layers: list[nn.Module] = [nn.Conv2d(i, o, k, s, pad, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


def depthwise(i: int, o: int, s: int = 1) -> nn.Module:
    """A depthwise separable convolution of MobileNet v1."""
    return nn.Sequential(cbr(i, i, 3, s, g=i), cbr(i, o))


class Residual(nn.Module):
    """x + body(x), with a shortcut where shapes differ."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


class Branches(nn.Module):
    """The branches' outputs side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Outputs(nn.Module):
    """Stages one after the other; every stage's head reads its output."""

    def __init__(self, stages: list[nn.Module], heads: list[list[nn.Module]]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList([nn.ModuleList(head) for head in heads])

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage, heads in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            outputs += [head(x) for head in heads]
        return outputs


# --- classifiers ------------------------------------------------------------------------------


def fc(*sizes: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten()]
    for i, o in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return layers[:-1]


def caffe_alexnet() -> nn.Module:
    """bvlc_alexnet and bvlc_reference_caffenet, deploy.prototxt: two groups."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, 4), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, 1, 2, groups=2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 384, 3, 1, 1, groups=2), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AdaptiveMaxPool2d(6), *fc(9216, 4096, 4096, 1000),
    )  # fmt: skip


def zfnet() -> nn.Module:
    """zfnet512 of the ONNX Model Zoo: conv3-5 have 512, 1024, 512 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(96, 256, 5, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(256, 512, 3, 1, 1), nn.ReLU(), nn.Conv2d(512, 1024, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(1024, 512, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.AdaptiveMaxPool2d(6), *fc(18432, 4096, 4096, 1000),
    )  # fmt: skip


def inception(
    i: int, a: int, b0: int, b: int, c0: int, c: int, d: int, five: int = 5
) -> nn.Module:
    """A block of GoogLeNet; `five` is the third branch's window."""
    return Branches(
        cbr(i, a), nn.Sequential(cbr(i, b0), cbr(b0, b, 3)), nn.Sequential(cbr(i, c0), cbr(c0, c, five)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), cbr(i, d)),
    )  # fmt: skip


def googlenet() -> nn.Module:
    """Szegedy et al. 2014, table 1 (torchvision's has 3x3 for 5x5)."""
    pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)  # noqa: E731
    return nn.Sequential(
        cbr(3, 64, 7, 2), pool(), cbr(64, 64), cbr(64, 192, 3), pool(),
        inception(192, 64, 96, 128, 16, 32, 32), inception(256, 128, 128, 192, 32, 96, 64), pool(),
        inception(480, 192, 96, 208, 16, 48, 64), inception(512, 160, 112, 224, 24, 64, 64),
        inception(512, 128, 128, 256, 24, 64, 64), inception(512, 112, 144, 288, 32, 64, 64),
        inception(528, 256, 160, 320, 32, 128, 128), pool(),
        inception(832, 256, 160, 320, 32, 128, 128), inception(832, 384, 192, 384, 48, 128, 128),
        nn.AdaptiveAvgPool2d(1), *fc(1024, 1000),
    )  # fmt: skip


def double(i: int, a: int, b0: int, b: int, c0: int, c: int, d: int) -> nn.Module:
    """A block of BN-Inception: the third branch has two 3x3."""
    return Branches(
        cbr(i, a), nn.Sequential(cbr(i, b0), cbr(b0, b, 3)),
        nn.Sequential(cbr(i, c0), cbr(c0, c, 3), cbr(c, c, 3)), nn.Sequential(nn.AvgPool2d(3, 1, 1), cbr(i, d)),
    )  # fmt: skip


def halving(i: int, b0: int, b: int, c0: int, c: int) -> nn.Module:
    return Branches(
        nn.Sequential(cbr(i, b0), cbr(b0, b, 3, 2)),
        nn.Sequential(cbr(i, c0), cbr(c0, c, 3), cbr(c, c, 3, 2)), nn.MaxPool2d(3, 2, 1),
    )  # fmt: skip


def inception_v2() -> nn.Module:
    """Ioffe and Szegedy 2015, as TF-Slim's inception_v2 (separable first convolution)."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 7, 2, 3, groups=3, bias=False), cbr(24, 64), nn.MaxPool2d(3, 2, 1),
        cbr(64, 64), cbr(64, 192, 3), nn.MaxPool2d(3, 2, 1),
        double(192, 64, 64, 64, 64, 96, 32), double(256, 64, 64, 96, 64, 96, 64), halving(320, 128, 160, 64, 96),
        double(576, 224, 64, 96, 96, 128, 128), double(576, 192, 96, 128, 96, 128, 128),
        double(576, 160, 128, 160, 128, 160, 96), double(576, 96, 128, 192, 160, 192, 96),
        halving(576, 128, 192, 192, 256), double(1024, 352, 192, 320, 160, 224, 128),
        double(1024, 352, 192, 320, 192, 224, 128), nn.AdaptiveAvgPool2d(1), *fc(1024, 1000),
    )  # fmt: skip


def bottleneck_v1(i: int, width: int, s: int, expansion: int = 4) -> nn.Module:
    o = width * expansion
    body = nn.Sequential(cbr(i, width, 1, s), cbr(width, width, 3), cbr(width, o, act=False))
    return Residual(body, cbr(i, o, 1, s, act=False) if s != 1 or i != o else None)


def stages_v1(
    counts: tuple[int, ...], widths: tuple[int, ...] = (64, 128, 256, 512), first: int = 64
) -> list[nn.Module]:
    made, i = [], first
    for index, (count, width) in enumerate(zip(counts, widths, strict=True)):
        blocks = []
        for block in range(count):
            blocks.append(bottleneck_v1(i, width, 2 if block == 0 and index else 1))
            i = width * 4
        made.append(nn.Sequential(*blocks))
    return made


def stem() -> nn.Module:
    return nn.Sequential(cbr(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))


def resnet_v1(*counts: int) -> nn.Module:
    """He et al. 2015: the stride in the first 1x1, not in the 3x3 (v1.5)."""
    return nn.Sequential(stem(), *stages_v1(counts), nn.AdaptiveAvgPool2d(1), *fc(2048, 1000))


def mobilenet_v1(top: bool = True) -> list[nn.Module]:
    sizes = [
        (32, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        *[(512, 512, 1)] * 5,
    ]
    layers = [cbr(3, 32, 3, 2), *(depthwise(*each) for each in sizes)]
    last = [depthwise(512, 1024, 2), depthwise(1024, 1024)]
    return [*layers, *last, nn.AdaptiveAvgPool2d(1), *fc(1024, 1000)] if top else layers


class Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v1() -> nn.Module:
    """Zhang et al. 2017, 1x with g = 3, as the ONNX Model Zoo's shufflenet."""
    layers: list[nn.Module] = [cbr(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    i = 24
    for o, count in ((240, 4), (480, 8), (960, 4)):
        for block in range(count):
            s, w = (2 if block == 0 else 1), o - (i if block == 0 else 0)
            g = 1 if i == 24 else 3
            body = nn.Sequential(
                cbr(i, o // 4, g=g),
                Shuffle(3),
                cbr(o // 4, o // 4, 3, s, g=o // 4, act=False),
                cbr(o // 4, w, g=3, act=False),
            )
            layers.append(Branches(nn.AvgPool2d(3, 2, 1), body) if s == 2 else Residual(body))
            i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *fc(960, 1000))


class Dense(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(branch(x) for branch in self.branches)], 1)


def peleenet() -> nn.Module:
    """Wang et al. 2018, table 1: growth 32, blocks 3, 4, 8, 6, bottleneck widths 1, 2, 4, 4."""

    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (
                cbr(3, 32, 3, 2),
                nn.Sequential(cbr(32, 16), cbr(16, 32, 3, 2)),
                cbr(64, 32),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(torch.cat([self.b(x), F.max_pool2d(x, 2)], 1))

    layers: list[nn.Module] = [Stem()]
    i = 32
    for index, (count, width) in enumerate(((3, 1), (4, 2), (8, 4), (6, 4))):
        inner = 16 * width
        for _ in range(count):
            layers.append(
                Dense(
                    nn.Sequential(cbr(i, inner), cbr(inner, 16, 3)),
                    nn.Sequential(cbr(i, inner), cbr(inner, 16, 3), cbr(16, 16, 3)),
                )
            )
            i += 32
        layers.append(cbr(i, i))
        if index < 3:
            layers.append(nn.AvgPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *fc(i, 1000))


def arcface_r100() -> nn.Module:
    """LResNet100E-IR of InsightFace: stages 3, 13, 30, 3 of two 3x3 each at 112x112, embedding of 512."""
    layers: list[nn.Module] = [cbr(3, 64, 3)]
    i = 64
    for o, count in ((64, 3), (128, 13), (256, 30), (512, 3)):
        for block in range(count):
            s = 2 if block == 0 else 1
            body = nn.Sequential(
                nn.BatchNorm2d(i),
                nn.Conv2d(i, o, 3, 1, 1, bias=False),
                nn.BatchNorm2d(o),
                nn.PReLU(o),
                nn.Conv2d(o, o, 3, s, 1, bias=False),
                nn.BatchNorm2d(o),
            )
            layers.append(Residual(body, cbr(i, o, 1, s, act=False) if s != 1 or i != o else None))
            i = o
    return nn.Sequential(*layers, nn.BatchNorm2d(512), *fc(25088, 512))


def emotion_ferplus() -> nn.Module:
    """Barsoum et al. 2016, VGG13 on 64x64 grey images."""
    layers: list[nn.Module] = []
    i = 1
    for o, count in ((64, 2), (128, 2), (256, 3), (256, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(i, o, 3, 1, 1), nn.ReLU()]
            i = o
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *fc(4096, 1024, 1024, 8))


# --- detectors ----------------------------------------------------------------------------------


def separable(i: int, o: int, s: int = 1) -> nn.Module:
    return nn.Sequential(
        cbr(i, i // 2 if o > 128 else o // 2), cbr(i // 2 if o > 128 else o // 2, o, 3, s)
    )


def ssd_heads(sizes: list[int], boxes: list[int], classes: int, k: int) -> list[list[nn.Module]]:
    return [
        [nn.Conv2d(i, 4 * b, k, 1, k // 2), nn.Conv2d(i, classes * b, k, 1, k // 2)]
        for i, b in zip(sizes, boxes, strict=True)
    ]


def ssd_mobilenet_v1(classes: int = 91) -> nn.Module:
    """ssd_mobilenet_v1_coco of TensorFlow's object detection zoo, 300x300 (ncnn's mobilenet_ssd is Caffe's twin of 21 classes)."""
    stages = [
        nn.Sequential(*mobilenet_v1(top=False)), nn.Sequential(depthwise(512, 1024, 2), depthwise(1024, 1024)),
        nn.Sequential(cbr(1024, 256), cbr(256, 512, 3, 2)), nn.Sequential(cbr(512, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 2)), nn.Sequential(cbr(256, 64), cbr(64, 128, 3, 2)),
    ]  # fmt: skip
    return Outputs(
        stages, ssd_heads([512, 1024, 512, 256, 256, 128], [3, 6, 6, 6, 6, 6], classes, 1)
    )


def ssd_mobilenet_v2() -> nn.Module:
    """ssd_mobilenet_v2_coco, 300x300."""
    body = torchvision.models.mobilenet_v2().features
    stages = [
        nn.Sequential(*body[:14], body[14].conv[0]), nn.Sequential(*body[14].conv[1:], *body[15:]),
        nn.Sequential(cbr(1280, 256), cbr(256, 512, 3, 2)), nn.Sequential(cbr(512, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 2)), nn.Sequential(cbr(256, 64), cbr(64, 128, 3, 2)),
    ]  # fmt: skip
    return Outputs(stages, ssd_heads([576, 1280, 512, 256, 256, 128], [3, 6, 6, 6, 6, 6], 91, 1))


def squeezenet_ssd() -> nn.Module:
    """ncnn's squeezenet_ssd: SqueezeNet 1.1 at 300x300 with six heads of 21 classes."""
    body = torchvision.models.squeezenet1_1().features
    stages = [
        nn.Sequential(*body[:10]), body[10:], nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), cbr(512, 512, 3)),
        nn.Sequential(cbr(512, 256), cbr(256, 512, 3, 2)), nn.Sequential(cbr(512, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 2)),
    ]  # fmt: skip
    sizes = [384, 512, 512, 512, 256, 256]
    return Outputs(stages, ssd_heads(sizes, [4, 6, 6, 6, 4, 4], 21, 3))


def ssd_resnet34() -> nn.Module:
    """MLPerf's large SSD, 1200x1200, 81 classes: ResNet-34 whose last stage keeps stride 1 and stops at 256 channels."""
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
        body[:23], nn.Sequential(*body[23:30], nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, 1, 6, 6), nn.ReLU(), nn.Conv2d(1024, 1024, 1), nn.ReLU()),
        nn.Sequential(cbr(1024, 256), cbr(256, 512, 3, 2)), nn.Sequential(cbr(512, 128), cbr(128, 256, 3, 2)),
        nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 1, 0)), nn.Sequential(cbr(256, 128), cbr(128, 256, 3, 1, 0)),
    ]  # fmt: skip
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
        tower = lambda o: nn.Sequential(
            *(cbr(256, 256, 3) for _ in range(depth)), nn.Conv2d(256, o, 3, 1, 1)
        )  # noqa: E731
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
            above = y if above is None else y + F.interpolate(above, size=y.shape[2:])
            levels.append(smooth(above))
        levels += [self.p6(levels[0]), self.p7(self.p6(levels[0]))]
        return [head(level) for head in self.heads for level in levels]


def ssd_resnet50(size: int = 640) -> nn.Module:
    """ssd_resnet50_v1_fpn_shared_box_predictor_640x640_coco14 of TensorFlow's object detection zoo."""
    one, *rest = stages_v1((3, 4, 6, 3))
    return Pyramid([nn.Sequential(stem(), one), *rest], (512, 1024, 2048), 91, 6)


class FasterRCNN(nn.Module):
    """TensorFlow's faster_rcnn_resnet{50,101}_coco: stride 16 features, the last stage once per proposal at 7x7."""

    def __init__(
        self,
        body: nn.Module,
        last: nn.Module,
        i: int,
        o: int,
        proposals: int,
        mask: bool = False,
        crop: int = 14,
    ) -> None:
        super().__init__()
        self.body, self.last, self.proposals, self.crop = body, last, proposals, crop
        self.rpn = nn.Sequential(nn.Conv2d(i, 512, 3, 1, 1), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(512, 48, 1), nn.Conv2d(512, 24, 1)
        self.classes, self.regress = nn.Linear(o, 91), nn.Linear(o, 360)
        self.mask = (
            nn.Sequential(
                nn.ConvTranspose2d(o, 256, 2, 2),
                nn.ReLU(),
                nn.Conv2d(256, 256, 3, 1, 1),
                nn.ReLU(),
                nn.Conv2d(256, 91, 1),
            )
            if mask
            else None
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.body(x)
        y = self.rpn(x)
        crop = F.interpolate(x, (self.crop, self.crop)).repeat(self.proposals, 1, 1, 1)
        z = self.last(F.max_pool2d(crop, 2))
        flat = z.mean((2, 3))
        outputs = [self.boxes(y), self.scores(y), self.classes(flat), self.regress(flat)]
        return outputs if self.mask is None else [*outputs, self.mask(z[:100])]


def faster_rcnn(counts: tuple[int, ...], proposals: int = 100, mask: bool = False) -> nn.Module:
    one, two, three, four = stages_v1(counts)
    four[0].body[0][0].stride = (1, 1)
    four[0].shortcut[0].stride = (1, 1)
    return FasterRCNN(nn.Sequential(stem(), one, two, three), four, 1024, 2048, proposals, mask)


def faster_rcnn_fpn(mask: bool) -> nn.Module:
    """torchvision's R-50-FPN as the ONNX Model Zoo has it, 800x1088: RPN on five levels, 1000 proposals, 100 masks."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            one, *rest = stages_v1((3, 4, 6, 3))
            self.body = nn.ModuleList([nn.Sequential(stem(), one), *rest])
            self.lateral = nn.ModuleList([nn.Conv2d(i, 256, 1) for i in (256, 512, 1024, 2048)])
            self.smooth = nn.ModuleList([nn.Conv2d(256, 256, 3, 1, 1) for _ in range(4)])
            self.rpn = nn.Sequential(
                nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.Conv2d(256, 15, 1)
            )
            self.box = nn.Sequential(*fc(12544, 1024, 1024, 405))
            self.mask = nn.Sequential(
                *(cbr(256, 256, 3) for _ in range(4)),
                nn.ConvTranspose2d(256, 256, 2, 2),
                nn.Conv2d(256, 81, 1),
            )

        def forward(self, x: Tensor) -> list[Tensor]:
            found = []
            for stage in self.body:
                x = stage(x)
                found.append(x)
            above, outputs = None, []
            for lateral, smooth, level in zip(
                reversed(self.lateral), self.smooth, reversed(found), strict=True
            ):
                y = lateral(level)
                above = y if above is None else y + F.interpolate(above, size=y.shape[2:])
                outputs.append(self.rpn(smooth(above)))
            outputs.append(self.box(torch.zeros(1000, 12544) + outputs[0].mean()))
            return (
                [*outputs, self.mask(torch.zeros(100, 256, 14, 14) + outputs[0].mean())]
                if mask
                else outputs
            )

    return Model()


def darknet_block(i: int) -> nn.Module:
    return Residual(nn.Sequential(cbr(i, i // 2), cbr(i // 2, i, 3)))


class Yolo(nn.Module):
    """Three (or two) heads with upsampling between; the necks of YOLO v3."""

    def __init__(
        self, body: list[nn.Module], sizes: list[int], out: int, tiny: bool = False
    ) -> None:
        super().__init__()
        self.body = nn.ModuleList(body)
        self.necks, self.heads, self.ups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        previous = 0
        for index, i in enumerate(reversed(sizes)):
            middle = (256, 128)[index] if tiny else (512, 256, 128)[index]
            joined = i + previous
            if tiny:
                self.necks.append(cbr(joined, 256) if index == 0 else nn.Identity())
                self.heads.append(
                    nn.Sequential(
                        cbr(256 if index == 0 else joined, 512 if index == 0 else 256, 3),
                        nn.Conv2d(512 if index == 0 else 256, out, 1),
                    )
                )
                self.ups.append(cbr(256, 128) if index == 0 else nn.Identity())
                previous = 128
                continue
            self.necks.append(
                nn.Sequential(
                    cbr(joined, middle),
                    cbr(middle, 2 * middle, 3),
                    cbr(2 * middle, middle),
                    cbr(middle, 2 * middle, 3),
                    cbr(2 * middle, middle),
                )
            )
            self.heads.append(
                nn.Sequential(cbr(middle, 2 * middle, 3), nn.Conv2d(2 * middle, out, 1))
            )
            self.ups.append(cbr(middle, middle // 2))
            previous = middle // 2

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.body:
            x = stage(x)
            found.append(x)
        found = found[-len(self.necks) :]
        outputs, above = [], None
        for neck, head, up, level in zip(
            self.necks, self.heads, self.ups, reversed(found), strict=True
        ):
            y = neck(level if above is None else torch.cat([level, above], 1))
            outputs.append(head(y))
            above = F.interpolate(up(y), scale_factor=2)
        return outputs


def yolov3() -> nn.Module:
    """Redmon and Farhadi 2018, Darknet-53, 416x416, 80 classes."""
    stages, i = [], 32
    for index, count in enumerate((1, 2, 8, 8, 4)):
        layers = [cbr(3, 32, 3)] if index == 0 else []
        stages.append(
            nn.Sequential(
                *layers, cbr(i, 2 * i, 3, 2), *(darknet_block(2 * i) for _ in range(count))
            )
        )
        i *= 2
    return Yolo(stages, [256, 512, 1024], 255)


def yolov3_tiny() -> nn.Module:
    """yolov3-tiny.cfg of Darknet, 416x416."""
    layers: list[nn.Module] = []
    i = 3
    for o in (16, 32, 64, 128):
        layers += [cbr(i, o, 3), nn.MaxPool2d(2)]
        i = o
    first = nn.Sequential(*layers, cbr(128, 256, 3))
    second = nn.Sequential(
        nn.MaxPool2d(2), cbr(256, 512, 3), nn.MaxPool2d(3, 1, 1), cbr(512, 1024, 3)
    )
    return Yolo([first, second], [256, 1024], 255, tiny=True)


class CSP(nn.Module):
    def __init__(self, i: int, o: int, count: int) -> None:
        super().__init__()
        h = o if count == 1 else o // 2
        self.down = cbr(i, o, 3, 2)
        self.left, self.right = cbr(o, h), cbr(o, h)
        inner = o // 2 if count == 1 else h
        self.blocks = nn.Sequential(
            *(Residual(nn.Sequential(cbr(h, inner), cbr(inner, h, 3))) for _ in range(count)),
            cbr(h, h),
        )
        self.out = cbr(2 * h, o)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return self.out(torch.cat([self.left(x), self.blocks(self.right(x))], 1))


def yolov4() -> nn.Module:
    """Bochkovskiy et al. 2020 on CSPDarknet-53, 416x416, with the upward half of its neck doubled as path aggregation."""
    body = [
        nn.Sequential(cbr(3, 32, 3), CSP(32, 64, 1)), CSP(64, 128, 2), CSP(128, 256, 8), CSP(256, 512, 8), CSP(512, 1024, 4),
    ]  # fmt: skip

    class Four(Yolo):
        def __init__(self) -> None:
            super().__init__(body, [256, 512, 1024], 255)
            self.down = nn.ModuleList([cbr(128, 256, 3, 2), cbr(256, 512, 3, 2)])
            five = lambda m: nn.Sequential(
                cbr(2 * m, m), cbr(m, 2 * m, 3), cbr(2 * m, m), cbr(m, 2 * m, 3), cbr(2 * m, m)
            )  # noqa: E731
            self.again = nn.ModuleList([five(256), five(512)])
            self.spp = nn.Sequential(
                cbr(1024, 512),
                cbr(512, 1024, 3),
                cbr(1024, 512),
                Branches(nn.Identity(), *(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))),
                cbr(2048, 512),
                cbr(512, 1024, 3),
            )

        def forward(self, x: Tensor) -> list[Tensor]:
            found = []
            for stage in self.body:
                x = stage(x)
                found.append(x)
            levels, above = [self.spp(found[-1]), found[-2], found[-3]], None
            kept = []
            for neck, up, level in zip(self.necks, self.ups, levels, strict=True):
                y = neck(level if above is None else torch.cat([level, above], 1))
                kept.append(y)
                above = F.interpolate(up(y), scale_factor=2)
            low = kept[2]
            outputs = [self.heads[2](low)]
            for index, down in enumerate(self.down):
                low = self.again[index](torch.cat([down(low), kept[1 - index]], 1))
                outputs.append(self.heads[1 - index](low))
            return outputs

    return Four()


def yolov2(tiny: bool) -> nn.Module:
    """yolov2.cfg and yolov2-tiny.cfg of Darknet, 416x416."""
    if tiny:
        sizes = (16, 32, 64, 128, 256, 512)
        layers: list[nn.Module] = []
        i = 3
        for o in sizes:
            layers += [cbr(i, o, 3), nn.MaxPool2d(2) if o < 512 else nn.MaxPool2d(3, 1, 1)]
            i = o
        return nn.Sequential(
            *layers, cbr(512, 1024, 3), cbr(1024, 1024, 3), nn.Conv2d(1024, 125, 1)
        )
    pool = lambda: nn.MaxPool2d(2)  # noqa: E731
    three = lambda a, b: [cbr(a, b, 3), cbr(b, a), cbr(a, b, 3)]  # noqa: E731
    return nn.Sequential(
        cbr(3, 32, 3), pool(), cbr(32, 64, 3), pool(), *three(64, 128), pool(), *three(128, 256), pool(),
        *three(256, 512), cbr(512, 256), cbr(256, 512, 3), pool(), *three(512, 1024), cbr(1024, 512), cbr(512, 1024, 3),
        cbr(1024, 1024, 3), cbr(1024, 1024, 3), cbr(1024, 1024, 3), nn.Conv2d(1024, 425, 1),
    )  # fmt: skip


def ultraface() -> nn.Module:
    """Ultra-Light-Fast-Generic-Face-Detector-1MB, version-RFB-320 (its RFB module as two depthwise blocks)."""
    stages = [
        nn.Sequential(cbr(3, 16, 3, 2), depthwise(16, 32), depthwise(32, 32, 2), depthwise(32, 32), depthwise(32, 64, 2), depthwise(64, 64), depthwise(64, 64), depthwise(64, 64)),
        nn.Sequential(depthwise(64, 128, 2), depthwise(128, 128), depthwise(128, 128)), nn.Sequential(depthwise(128, 256, 2), depthwise(256, 256)),
        nn.Sequential(cbr(256, 64), depthwise(64, 256, 2)),
    ]  # fmt: skip
    heads = [
        [depthwise(i, 4 * b), depthwise(i, 2 * b)]
        for i, b in ((64, 3), (128, 2), (256, 2), (256, 3))
    ]
    return Outputs(stages, heads)


def duc() -> nn.Module:
    """ResNet101-DUC-HDC of the ONNX Model Zoo, 800x800: stride 8 with dilated last stages, 19 x 16 outputs (cells of 2 pixels)."""
    body = torchvision.models.resnet101(replace_stride_with_dilation=[False, True, True])
    features = nn.Sequential(
        body.conv1,
        body.bn1,
        body.relu,
        body.maxpool,
        body.layer1,
        body.layer2,
        body.layer3,
        body.layer4,
    )

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rates = nn.ModuleList([nn.Conv2d(2048, 304, 3, 1, r, r) for r in (6, 12, 18, 24)])

        def forward(self, x: Tensor) -> Tensor:
            return F.pixel_shuffle(sum(conv(x) for conv in self.rates), 4).softmax(1)

    return nn.Sequential(features, Head())


def unet() -> nn.Module:
    """Ronneberger et al. 2015, padded, 3 -> 2 classes, 256x256."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            two = lambda i, o: nn.Sequential(cbr(i, o, 3), cbr(o, o, 3))  # noqa: E731
            sizes = (64, 128, 256, 512, 1024)
            self.down = nn.ModuleList(
                [two(i, o) for i, o in zip((3, *sizes[:-1]), sizes, strict=True)]
            )
            self.ups = nn.ModuleList([nn.ConvTranspose2d(o, o // 2, 2, 2) for o in sizes[:0:-1]])
            self.join = nn.ModuleList([two(o, o // 2) for o in sizes[:0:-1]])
            self.last = nn.Conv2d(64, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            kept = []
            for index, down in enumerate(self.down):
                x = down(F.max_pool2d(x, 2) if index else x)
                kept.append(x)
            for up, join, side in zip(self.ups, self.join, kept[-2::-1], strict=True):
                x = join(torch.cat([up(x), side], 1))
            return self.last(x)

    return Model()


def super_resolution() -> nn.Module:
    """super_resolution of PyTorch's examples and the ONNX Model Zoo (factor 3, 224x224 grey)."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, 1, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 32, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(32, 9, 3, 1, 1), nn.PixelShuffle(3),
    )  # fmt: skip


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

    for name in ("vgg11", "vgg13", "vgg16", "vgg19", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
                 "wide_resnet50_2", "wide_resnet101_2", "densenet121", "densenet161", "densenet169", "densenet201", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2",
                 "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x1_0", "shufflenet_v2_x0_5", "mnasnet1_0", "regnet_y_400mf", "alexnet"):  # fmt: skip
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
        ("caffenet", caffe_alexnet, IMAGE), ("zfnet", zfnet, IMAGE), ("googlenet", googlenet, IMAGE), ("inception_v2", inception_v2, IMAGE),
        ("shufflenet_v1", shufflenet_v1, IMAGE), ("peleenet", peleenet, IMAGE), ("arcface_r100", arcface_r100, (3, 112, 112)),
        ("emotion_ferplus", emotion_ferplus, (1, 64, 64)), ("ssd_mobilenet_v1", ssd_mobilenet_v1, (3, 300, 300)),
        ("ssd_mobilenet_v2", ssd_mobilenet_v2, (3, 300, 300)), ("squeezenet_ssd", squeezenet_ssd, (3, 300, 300)),
        ("ssd_resnet34", ssd_resnet34, (3, 1200, 1200)), ("ssd_vgg16", ssd_vgg16, (3, 300, 300)), ("ssd_resnet50", ssd_resnet50, (3, 640, 640)),
        ("yolov3", yolov3, (3, 416, 416)), ("yolov3_tiny", yolov3_tiny, (3, 416, 416)), ("yolov4", yolov4, (3, 416, 416)),
        ("ultraface", ultraface, (3, 240, 320)), ("duc", duc, (3, 800, 800)), ("unet", unet, (3, 256, 256)), ("super_resolution", super_resolution, (1, 224, 224)),
    ):  # fmt: skip
        own(name, build, size)
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
