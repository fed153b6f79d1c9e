"""Train the network of the embedded demo again, from the data inside the package.

    python examples/train_demo.py --output digits_model.safetensors

Takes about a minute on one core. The seed fixes the result on one machine and torch version;
other processors round differently, so the weights differ there while the accuracy stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mixq.demo.data import DATA, Evaluate, load_splits
from mixq.demo.model import WEIGHTS, DigitsNet


def rebuild_data(path: Path, seed: int = 0) -> None:
    """Write the digits of scikit-learn, shuffled; the order of the file is the split."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    tensors = {
        "images": torch.from_numpy(digits.images[order].astype(np.uint8)),
        "labels": torch.from_numpy(digits.target[order].astype(np.uint8)),
    }
    save_file(tensors, path)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every image moved by -1, 0 or 1 pixel in both directions, zeros coming in."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    rows, columns = torch.randint(0, 3, (2, len(images), 1), generator=generator)
    offsets = torch.arange(8)
    index = torch.arange(len(images)).view(-1, 1, 1)
    moved = padded[index, 0, (rows + offsets)[:, :, None], (columns + offsets)[:, None, :]]
    return moved.unsqueeze(1)


def train(epochs: int, seed: int) -> DigitsNet:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DigitsNet().train()
    data = load_splits().train
    batch = 64
    steps = epochs * (len(data.labels) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(data.labels), generator=generator)
        # The last incomplete batch is left out: its BatchNorm statistics would be noisy.
        for index in torch.split(order[: len(order) // batch * batch], batch):
            logits = model(shifted(data.images[index], generator))
            loss = nn.functional.cross_entropy(logits, data.labels[index], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="safetensors file to write")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rebuild-data", action="store_true", help="write the data from scikit-learn first"
    )
    arguments = parser.parse_args()
    if arguments.rebuild_data:
        rebuild_data(DATA)
    model = train(arguments.epochs, arguments.seed)
    metrics = Evaluate(load_splits().test)(model)
    print(f"test accuracy {metrics['accuracy']:.3f}, loss {metrics['loss']:.4f}")
    # num_batches_tracked counts training steps: int64 scalars that inference never reads, but
    # the state dict has them, so they stay.
    save_file(model.state_dict(), arguments.output)


if __name__ == "__main__":
    main()
