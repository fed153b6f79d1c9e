"""Detectors that look again at every proposed region."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from model_networks.blocks import cbr, fc, stages_v1, stem


class FasterRCNN(nn.Module):
    """TensorFlow's faster_rcnn_resnet{50,101}_coco: stride 16 features, the last stage once per
    proposal at 7x7."""

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
        crop = nnf.interpolate(x, (self.crop, self.crop)).repeat(self.proposals, 1, 1, 1)
        z = self.last(nnf.max_pool2d(crop, 2))
        flat = z.mean((2, 3))
        outputs = [self.boxes(y), self.scores(y), self.classes(flat), self.regress(flat)]
        return outputs if self.mask is None else [*outputs, self.mask(z[:100])]


def faster_rcnn(counts: tuple[int, ...], proposals: int = 100, mask: bool = False) -> nn.Module:
    one, two, three, four = stages_v1(counts)
    four[0].body[0][0].stride = (1, 1)
    four[0].shortcut[0].stride = (1, 1)
    return FasterRCNN(nn.Sequential(stem(), one, two, three), four, 1024, 2048, proposals, mask)


def faster_rcnn_fpn(mask: bool) -> nn.Module:
    """torchvision's R-50-FPN as the ONNX Model Zoo has it, 800x1088: RPN on five levels, 1000
    proposals, 100 masks."""

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
                above = y if above is None else y + nnf.interpolate(above, size=y.shape[2:])
                outputs.append(self.rpn(smooth(above)))
            outputs.append(self.box(torch.zeros(1000, 12544) + outputs[0].mean()))
            return (
                [*outputs, self.mask(torch.zeros(100, 256, 14, 14) + outputs[0].mean())]
                if mask
                else outputs
            )

    return Model()
