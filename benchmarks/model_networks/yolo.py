"""YOLO v2, v3 and v4, and tiny ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from model_networks.blocks import Branches, Residual, cbr


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
            above = nnf.interpolate(up(y), scale_factor=2)
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
    """Bochkovskiy et al. 2020 on CSPDarknet-53, 416x416, with the upward half of its neck
    doubled as path aggregation."""
    body = [
        nn.Sequential(cbr(3, 32, 3), CSP(32, 64, 1)),
        CSP(64, 128, 2),
        CSP(128, 256, 8),
        CSP(256, 512, 8),
        CSP(512, 1024, 4),
    ]

    class Four(Yolo):
        def __init__(self) -> None:
            super().__init__(body, [256, 512, 1024], 255)
            self.down = nn.ModuleList([cbr(128, 256, 3, 2), cbr(256, 512, 3, 2)])

            def five(m: int) -> nn.Module:
                return nn.Sequential(
                    cbr(2 * m, m), cbr(m, 2 * m, 3), cbr(2 * m, m), cbr(m, 2 * m, 3), cbr(2 * m, m)
                )

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
                above = nnf.interpolate(up(y), scale_factor=2)
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
        cbr(3, 32, 3),
        pool(),
        cbr(32, 64, 3),
        pool(),
        *three(64, 128),
        pool(),
        *three(128, 256),
        pool(),
        *three(256, 512),
        cbr(512, 256),
        cbr(256, 512, 3),
        pool(),
        *three(512, 1024),
        cbr(1024, 512),
        cbr(512, 1024, 3),
        cbr(1024, 1024, 3),
        cbr(1024, 1024, 3),
        cbr(1024, 1024, 3),
        nn.Conv2d(1024, 425, 1),
    )
