"""The example loaders: figures of the 32-bit models, and data that may be trusted."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixq.batch import call, named_tensors
from mixq.calibration import Calibration
from mixq.errors import MissingExtraError, UsageError

from .. import example_models
from ..example_models import NAMES, example


@dataclass(frozen=True)
class Loaded:
    name: str
    model: nn.Module
    calibration: Calibration
    evaluate: Any


@pytest.fixture(scope="module", params=NAMES)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return load(request.param)


def load(name: str) -> Loaded:
    return Loaded(name, *example_models.load(name))


@dataclass(frozen=True)
class Figures:
    """What the 32-bit model scores; `slack` is two samples' worth, for other CPUs' rounding."""

    primary: str
    values: dict[str, float]
    slack: float
    parameters: int


FIGURES = {
    "minilm": Figures(
        "definition_top1",
        {"definition_top1": 0.352, "simlex_rho": 0.4462, "lee_pearson": 0.6538},
        2 / 500,
        22_713_216,
    ),
    "efficientnet_lite0": Figures(
        "top1", {"top1": 0.875, "top5": 0.975, "nll": 0.590}, 2 / 80, 4_652_008
    ),
    "crepe_tiny": Figures("rpa50", {"rpa50": 0.9733, "rca50": 0.9883}, 2 / 600, 486_552),
    "smollm2": Figures("perplexity", {"nll": 3.7464, "top1": 0.3159}, 2 / 1016, 134_515_008),
}


@pytest.mark.slow
class TestLoaded:
    def test_scores_what_it_scored_when_it_was_chosen(self, loaded: Loaded) -> None:
        expected = FIGURES[loaded.name]
        scores = loaded.evaluate(loaded.model)
        assert loaded.evaluate.primary == expected.primary
        assert expected.primary in scores
        for key, value in expected.values.items():
            assert scores[key] == pytest.approx(value, abs=expected.slack), key
        assert all(type(value) is float and math.isfinite(value) for value in scores.values())

    def test_counts_shared_parameters_once(self, loaded: Loaded) -> None:
        count = sum(parameter.numel() for parameter in loaded.model.parameters())
        assert count == FIGURES[loaded.name].parameters

    def test_is_in_evaluation_mode_and_32_bit(self, loaded: Loaded) -> None:
        assert not any(module.training for module in loaded.model.modules())
        assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}

    def test_takes_its_calibration(self, loaded: Loaded) -> None:
        with torch.no_grad():
            for batch in loaded.calibration.batches:
                assert call(loaded.model, batch) is not None

    def test_holds_out_a_quarter_that_the_rest_lacks(self, loaded: Loaded) -> None:
        rest, held_out = loaded.calibration.split()
        assert held_out is not None
        assert held_out.samples * 4 == loaded.calibration.samples
        assert not digests(rest) & digests(held_out)
        assert len(digests(loaded.calibration)) == loaded.calibration.samples

    def test_calibrates_on_nothing_that_it_is_judged_on(self, loaded: Loaded) -> None:
        assert not digests(loaded.calibration) & judged_digests(loaded)

    def test_loads_the_same_data_twice(self, loaded: Loaded) -> None:
        assert load(loaded.name).calibration.fingerprint == loaded.calibration.fingerprint


def digests(calibration: Calibration) -> set[bytes]:
    """Bytes of the first input of every sample: frames, images or token ids."""
    return {
        sample.numpy().tobytes()
        for batch in calibration.batches
        for sample in named_tensors(batch)[0][1]
    }


def judged_digests(loaded: Loaded) -> set[bytes]:
    """Like `digests`, of the evaluation; token windows at every offset of the calibration's."""
    judged = loaded.evaluate
    if loaded.name == "crepe_tiny":
        return {frame.numpy().tobytes() for frame in judged.frames}
    if loaded.name == "efficientnet_lite0":
        return {image.numpy().tobytes() for image in judged.images}
    if loaded.name == "minilm":
        texts = [*judged.nouns, *judged.definitions, *judged.documents]
        rows = [ids for tokens in texts for ids in tokens["input_ids"][:, :64]]
        return {ids.numpy().tobytes() for ids in rows}
    assert judged.windows.shape == (8, 128)  # fewer, if it ran into the calibration's articles
    stream = judged.windows.flatten()
    return {ids.numpy().tobytes() for ids in stream.unfold(0, 64, 1).contiguous()}


@pytest.mark.slow
class TestTraps:
    def test_nothing_reads_the_pooler_of_minilm(self) -> None:
        loaded = load("minilm")
        batch = loaded.calibration.take(2).batches[0]
        assert isinstance(batch, dict)
        pooler = loaded.model.get_submodule("pooler.dense")
        assert isinstance(pooler, nn.Linear)
        with torch.no_grad():
            before = loaded.model(**batch)
            assert next(iter(before)) == "last_hidden_state"
            pooler.weight.zero_()
            after = loaded.model(**batch)
        assert torch.equal(before.last_hidden_state, after.last_hidden_state)
        assert not torch.equal(before.pooler_output, after.pooler_output)

    def test_efficientnet_is_made_of_subclassed_and_depthwise_convolutions(self) -> None:
        modules = list(load("efficientnet_lite0").model.modules())
        convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
        assert len(convolutions) == 49
        assert not any(type(convolution) is nn.Conv2d for convolution in convolutions)
        assert sum(convolution.groups > 1 for convolution in convolutions) == 16

    def test_smollm2_ties_its_head_and_lies_on_a_grid(self) -> None:
        loaded = load("smollm2")
        head = loaded.model.get_parameter("lm_head.weight")
        assert (
            head.data_ptr() == loaded.model.get_parameter("model.embed_tokens.weight").data_ptr()
        )
        matrix = loaded.model.get_parameter("model.layers.7.mlp.gate_proj.weight")
        groups = matrix.detach()[:64].reshape(-1, 32)
        assert max(len(group.unique()) for group in groups) == 16
        batch = loaded.calibration.take(1).batches[0]
        assert isinstance(batch, dict)
        with torch.no_grad():
            assert list(loaded.model(**batch)) == ["logits"]

    @pytest.mark.parametrize(
        ("samples", "length"), [(0, 64), (8, 0), (1000, 64), (8, 5000)], ids=str
    )
    def test_smollm2_refuses_a_calibration_that_the_corpus_lacks(
        self, samples: int, length: int
    ) -> None:
        load("smollm2")
        with pytest.raises(UsageError, match=f"asked for {samples} .* of {length} tokens"):
            example("smollm2").load(samples=samples, length=length)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_wheel_is_named_with_the_way_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example(name)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mixq\[examples\]'") as refused:
        module.load()
    assert "\n" not in str(refused.value)


class TestCrepe:
    @given(st.integers(4, 355))
    @settings(derandomize=True, deadline=None, max_examples=20)
    def test_a_lone_bin_decodes_to_its_centre(self, peak: int) -> None:
        crepe = example("crepe_tiny")
        bins = torch.zeros(1, 360)
        bins[0, peak] = 0.7
        centre = torch.tensor([crepe.FIRST_BIN_CENTS + 20.0 * peak])
        # Up to four roundings to float32: of the centre, the product, the quotient, and here.
        torch.testing.assert_close(crepe.decode_cents(bins), centre, rtol=4 * 2**-24, atol=0)

    def test_tones_have_the_pitch_of_their_label(self) -> None:
        frames, cents = example("crepe_tiny").tones(40, seed=5)
        pitches_hz = 10 * 2 ** (cents / 1200)
        assert frames.mean(1).abs().max() < 1e-6
        assert torch.allclose(frames.square().mean(1), torch.ones(40), atol=1e-5)
        # A tone repeats after one period; noise at 0 to 30 dB leaves at least half of the power.
        for frame, pitch_hz in zip(frames, pitches_hz, strict=True):
            period = round(16_000 / float(pitch_hz))
            correlation = frame[period:] @ frame[:-period] / (len(frame) - period)
            assert correlation > 0.25


class TestEfficientNetPhotos:
    def test_what_judges_has_photos_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = example("efficientnet_lite0")
        names = module.CALIBRATION_PHOTOS

        def numbered_views(photo: Path, count: int, _: object) -> list[Tensor]:
            return [torch.tensor([names.index(photo.name), view]) for view in range(count)]

        monkeypatch.setattr(module, "photo_views", numbered_views)
        images = module.calibration_images([Path()])
        calibration = Calibration.of(list(torch.split(images, 8)))
        assert len({tuple(image.tolist()) for image in images}) == len(images) == 64
        tuning, heldout = calibration.split()
        assert heldout is not None
        learning, judging = tuning.split()
        assert judging is not None
        parts = [
            {int(photo) for batch in part.batches for photo in cast("Tensor", batch)[:, 0]}
            for part in (learning, judging, heldout)
        ]
        assert [len(part) for part in parts] == [8, 4, 4]
        assert set.union(*parts) == set(range(16))
        # Whoever takes the first few sees as many photos.
        assert images[:8, 0].tolist() == list(range(8))


class TestMiniLM:
    @pytest.mark.parametrize(
        ("line", "found"),
        [
            ("1 2 n 01 falcon 0 | bird of prey that hunts well; 'x'", True),
            ("1 2 n 01 falcon 0 | a bird", False),
            ("1 2 n 01 falcon 0 | any falcon that people keep for hunting", False),
            ("1 2 n 01 Falcon 0 | bird of prey that hunts well", False),
            ("1 2 n 01 sea_hawk 0 | bird of prey that hunts well", False),
            ("1 2 n 01 ant 0 | small insect that lives in colonies", False),
            ("  1 This software | is of the licence text here", False),
        ],
        ids=[
            "fits", "too-short", "gives-it-away", "name", "two-words", "short-noun", "licence",
        ],
    )  # fmt: skip
    def test_which_nouns_are_asked(self, line: str, found: bool, tmp_path: Path) -> None:
        path = tmp_path / "data.noun"
        path.write_text(line + "\n", encoding="latin-1")
        expected = [("falcon", "bird of prey that hunts well")] if found else []
        assert example("minilm").defined_nouns(path, 10) == expected

    def test_what_is_trained_on_is_never_asked(self, tmp_path: Path) -> None:
        for kind, text in {
            "verb": "come to rest after a long flight; 'x'",
            "adj": "too short",
            "adv": "in a way that nobody expected",
            "noun": "bird of prey that hunts well",
        }.items():
            (tmp_path / f"data.{kind}").write_text(
                f"  1 licence | of this very software\n1 2 n 01 word 0 | {text}\n",
                encoding="latin-1",
            )
        assert example("minilm").other_definitions(tmp_path) == [
            "come to rest after a long flight",
            "in a way that nobody expected",
        ]

    def test_padding_does_not_move_an_embedding(self) -> None:
        class Hidden(nn.Module):
            def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
                self.last_hidden_state = torch.stack([input_ids, input_ids**2.0], dim=-1)
                return self

        model = Hidden()
        short = {"input_ids": torch.tensor([[3, 4]]), "attention_mask": torch.tensor([[1, 1]])}
        padded = {
            "input_ids": torch.tensor([[3, 4, 9]]),
            "attention_mask": torch.tensor([[1, 1, 0]]),
        }
        embed = example("minilm").embed
        assert torch.equal(embed(model, [short]), embed(model, [padded]))
        assert torch.allclose(embed(model, [short]).norm(dim=1), torch.ones(1))


class TestSmolLM2Cache:
    @pytest.fixture
    def cache_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        if importlib.util.find_spec("gguf") is None:
            pytest.skip("needs gguf; run: pip install 'mixq[examples]'")
        monkeypatch.setenv("MIXQ_MODELS_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    def write(self, monkeypatch: pytest.MonkeyPatch, body: Callable[[Path], object]) -> None:
        monkeypatch.setattr(example("smollm2"), "write_dequantized", lambda _, to: body(to))

    def test_a_failed_write_leaves_nothing(
        self, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(folder: Path) -> None:
            (folder / "half").write_text("x")
            raise OSError(28, "No space left on device")

        self.write(monkeypatch, fail)
        with pytest.raises(OSError, match="No space"):
            example("smollm2").dequantized_folder(Path())
        assert list(cache_folder.iterdir()) == []

    def test_it_is_written_once(self, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[Path] = []
        self.write(monkeypatch, lambda folder: calls.append(folder))
        first = example("smollm2").dequantized_folder(Path())
        assert example("smollm2").dequantized_folder(Path()) == first
        assert len(calls) == 1
        assert list(cache_folder.iterdir()) == [first]

    def test_two_processes_at_once_leave_one_folder(
        self, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        final = cache_folder / "smollm2-135m-instruct-fp32"

        def overtaken(folder: Path) -> None:
            (folder / "mine").write_text("x")
            final.mkdir()
            (final / "theirs").write_text("y")

        self.write(monkeypatch, overtaken)
        assert example("smollm2").dequantized_folder(Path()) == final
        assert [file.name for file in final.iterdir()] == ["theirs"]
        assert list(cache_folder.iterdir()) == [final]


@given(heads=st.integers(1, 4), half=st.integers(1, 4), columns=st.integers(1, 3))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_unpermuted_undoes_llama_cpps_permutation(heads: int, half: int, columns: int) -> None:
    rows = heads * 2 * half
    weight = torch.arange(rows * columns).view(rows, columns)
    # convert_hf_to_gguf.py, LlamaModel.permute
    permuted = weight.view(heads, 2, half, columns).transpose(1, 2).reshape(rows, columns)
    assert torch.equal(example("smollm2").unpermuted(permuted, heads), weight)
