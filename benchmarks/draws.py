"""Draws: calibration samples of the example models by chance, and test samples that none has."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration

MODELS = Path(__file__).resolve().parents[1] / "examples" / "models"


@dataclass(frozen=True)
class Draw:
    """One draw of a model's data.

    Attributes:
        calibration: what a search is given; its last quarter is held out and judges plans.
        test: samples that no draw's search sees.
    """

    model: nn.Module
    calibration: Calibration
    test: Calibration


def draw(name: str, seed: int) -> Draw:
    """Calibration samples by chance, test samples that are the same for every seed."""
    sys.path.insert(0, str(MODELS))
    model, batches, test = DRAWS[name](importlib.import_module(name), seed)
    return Draw(model, Calibration.of(batches), Calibration.of(test))


def minilm(module: Any, seed: int) -> tuple[nn.Module, list[Any], list[Any]]:
    """96 of 236 news texts; 64 others."""
    model, calibration, _ = module.load(300)
    rows = [
        {key: tensor[i] for key, tensor in batch.items()}
        for batch in calibration.batches
        for i in range(len(batch["input_ids"]))
    ]
    order = np.random.default_rng(seed).permutation(236)[:96]
    return model, _texts([rows[i] for i in order]), _texts(rows[236:])


def smollm2(module: Any, seed: int) -> tuple[nn.Module, list[Any], list[Any]]:
    """24 of 64 articles, 64 tokens of each; 20 others."""
    model, calibration, _ = module.load(84, 64)
    ids = torch.cat([batch["input_ids"] for batch in calibration.batches])
    order = np.random.default_rng(seed).permutation(64)[:24]
    batches, test = (
        [{"input_ids": part} for part in torch.split(i, 2)] for i in (ids[order], ids[64:])
    )
    return model, batches, test


def efficientnet_lite0(module: Any, seed: int) -> tuple[nn.Module, list[Any], list[Any]]:
    """Four views of each of 28 photos; of 8 others. Photos, because views of one are alike."""
    model, _, _ = module.load()
    folders = [
        module.wheel_folder("skimage", "scikit-image") / "data",
        module.wheel_folder("sklearn", "scikit-learn") / "datasets" / "images",
    ]
    known = [next(f / n for f in folders if (f / n).is_file()) for n in module.CALIBRATION_PHOTOS]
    labelled = sorted((module.wheel_folder("foolbox", "foolbox") / "data").glob("imagenet_*.jpg"))
    test, pool = labelled[::3] + known[::15], [*known, *labelled]
    pool = [photo for photo in pool if photo not in test]
    order = np.random.default_rng(seed).permutation(len(pool))

    def views(photos: Sequence[Path], chance: random.Random) -> list[Tensor]:
        found = [view for photo in photos for view in module.photo_views(photo, 4, chance)]
        return list(torch.split(torch.stack(found), 8))

    return (
        model,
        views([pool[i] for i in order], random.Random(seed)),
        views(test, random.Random(-1)),
    )


def crepe_tiny(module: Any, seed: int) -> tuple[nn.Module, list[Any], list[Any]]:
    """512 synthetic tones; 256 others."""
    model, _, _ = module.load()
    batches, test = (
        list(torch.split(module.tones(count, seed=start)[0], 32))
        for count, start in ((512, 100 + seed), (256, 2))
    )
    return model, batches, test


def _texts(rows: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Batches of 16 texts, padded to the longest."""
    batches = []
    for start in range(0, len(rows), 16):
        part = rows[start : start + 16]
        length = max(int(row["attention_mask"].sum()) for row in part)
        batches.append(
            {key: torch.stack([_cut(row[key], length) for row in part]) for key in part[0]}
        )
    return batches


def _cut(ids: Tensor, length: int) -> Tensor:
    """The first numbers, or all and zeros behind them."""
    return nn.functional.pad(ids[:length], (0, max(0, length - len(ids))))


DRAWS: dict[str, Callable[[Any, int], tuple[nn.Module, list[Any], list[Any]]]] = {
    "minilm": minilm,
    "efficientnet_lite0": efficientnet_lite0,
    "smollm2": smollm2,
    "crepe_tiny": crepe_tiny,
}
