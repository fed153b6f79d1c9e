"""What cannot be streamed is refused in one line that names the way out."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import CalibrationError, MissingExtraError, MixqError, ModelError, SourceError
from mixq.streaming import StreamedModel, open_folder
from mixq.streaming.measured import measure_streamed
from mixq.streaming.parts import find_parts
from mixq.streaming.shards import INDEX
from mixq.streaming.sketch import sketch_streamed

from .conftest import FORMATS, tokens

LAST = "model.norm.weight"


def shard_of(folder: Path, name: str) -> Path:
    return Path(folder / json.loads((folder / INDEX).read_text())["weight_map"][name])


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = shard_of(folder, LAST)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def edit_map(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def only_pickled(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle is read")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "only-pickled": (only_pickled, r"only pickled weights \(pytorch_model.bin\)"),
    "no-index": (lambda f: (f / INDEX).unlink(), "neither model.safetensors nor"),
    "index-is-a-list": (lambda f: (f / INDEX).write_text("[]"), "no weight_map"),
    "index-torn": (lambda f: (f / INDEX).write_text('{"weight'), "not valid JSON"),
    "shard-missing": (lambda f: shard_of(f, LAST).unlink(), "is not in the folder"),
    "shard-elsewhere": (
        lambda f: edit_map(f, lambda m: m.update({LAST: "../x.safetensors"})),
        "is not in the folder",
    ),
    "shard-torn": (
        lambda f: shard_of(f, LAST).write_bytes(shard_of(f, LAST).read_bytes()[:-4]),
        "is damaged or not a safetensors file",
    ),
    "shard-lacks-a-tensor": (
        lambda f: edit(f, lambda tensors: tensors.pop(LAST)),
        rf"lacks 1 tensors that {INDEX} says it has, the first is {LAST}",
    ),
    "tensor-in-no-shard": (
        lambda f: edit_map(f, lambda m: m.pop(LAST)),
        f"lacks 1 weights that its config asks for, the first is {LAST}",
    ),
    "wrong-shape": (
        lambda f: edit(f, lambda tensors: tensors.update({LAST: torch.ones(33)})),
        f"has the wrong shape for 1 weights .* {LAST}",
    ),
    "config-no-type": (lambda f: edit_config(f, model_type="none-such"), "makes no model"),
    "config-wrong-kind": (lambda f: edit_config(f, hidden_size="wide"), "makes no model"),
    "config-missing": (lambda f: (f / "config.json").unlink(), "no config.json"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_folders(damage: Callable[[Path], object], words: str, copied: Path) -> None:
    damage(copied)
    with pytest.raises(SourceError, match=words) as caught:
        open_folder(copied)
    assert "\n" not in str(caught.value)


def test_experts_that_transformers_stacks_while_loading(folders: dict[str, Path]) -> None:
    with pytest.raises(SourceError, match=r"lacks 4 weights .*gate_up_proj; .* without --stream"):
        open_folder(folders["experts"])


def test_without_transformers_the_install_line_is_named(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mixq\[hf\]'"):
        open_folder(copied)


def test_weights_that_are_not_finite_are_named(copied: Path) -> None:
    edit(copied, lambda tensors: tensors[LAST].__setitem__(3, float("nan")))
    with pytest.raises(ModelError, match=f"parameter {LAST} has 1 NaN"):
        open_folder(copied).fingerprint()


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Linear(4, 4)), nn.ModuleDict({"a": nn.ModuleList([nn.ReLU()])})],
    ids=["no-list", "nothing-in-the-list"],
)
def test_a_model_without_blocks(model: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"has no blocks .* without --stream"):
        find_parts(model)


FORMAT_LIST = FORMATS[:2]
GOOD = Calibration.of({"input_ids": tokens(2, 7)})


def run(streamed: StreamedModel, what: str, data: Calibration = GOOD) -> None:
    formats = dict.fromkeys(streamed.units, FORMAT_LIST)
    if what == "sketch":
        sketch_streamed(streamed, data, formats)
    else:
        measure_streamed(streamed, data, formats)


@pytest.mark.parametrize("what", ["sketch", "measure"])
class TestRunning:
    @pytest.fixture(autouse=True)
    def _nothing_stays(self, streamed: StreamedModel) -> None:
        self.before = threading.active_count()

    def check(self, streamed: StreamedModel, what: str, kind: type[MixqError], words: str) -> None:
        with pytest.raises(kind, match=words):
            run(streamed, what)
        self.is_clean(streamed)

    def is_clean(self, streamed: StreamedModel) -> None:
        assert threading.active_count() == self.before
        assert all(parameter.is_meta for parameter in streamed.model.parameters())
        assert not any("forward" in vars(module) for module in streamed.model.modules())

    def test_a_batch_that_does_not_fit(self, streamed: StreamedModel, what: str) -> None:
        """The embedding fails in this thread, what calls it in another; the batch is named."""
        with pytest.raises(CalibrationError, match=r"does not take .*input_ids int64 \(1, 3\)"):
            run(streamed, what, Calibration.of({"input_ids": torch.full((1, 3), 40)}))
        with pytest.raises(CalibrationError, match="does not take"):
            run(streamed, what, Calibration.of({"nonsense": torch.zeros(1, 3)}))
        self.is_clean(streamed)

    def test_weights_used_without_a_call(
        self, streamed: StreamedModel, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forward(self: nn.Module, input_ids: Tensor, **_: object) -> Tensor:
            inner = streamed.model.get_submodule("model")
            hidden: Tensor = inner.embed_tokens(input_ids)  # type: ignore[operator]
            table = inner.get_parameter("embed_tokens.weight")
            return nn.functional.linear(hidden, table)

        monkeypatch.setattr(type(streamed.model), "forward", forward)
        self.check(streamed, what, ModelError, "without calling the module that they belong to")

    def test_no_part_is_called(
        self, streamed: StreamedModel, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            type(streamed.model), "forward", lambda self, input_ids: input_ids * 1.0
        )
        self.check(streamed, what, ModelError, "calls none of its blocks")

    def test_a_part_within_a_part(
        self, streamed: StreamedModel, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        block = streamed.model.get_submodule("model.layers.1")

        def forward(self: nn.Module, hidden: Tensor, **kwargs: object) -> Tensor:
            return block(hidden, **kwargs) if self is not block else hidden

        monkeypatch.setattr(type(block), "forward", forward)
        self.check(streamed, what, ModelError, "model.layers.1 is called from within another part")

    def test_outputs_that_are_not_finite(
        self, streamed: StreamedModel, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        norm = streamed.model.get_submodule("model.norm")
        monkeypatch.setattr(
            type(norm), "forward", lambda self, x: (x * self.weight).clamp_min(0).log()
        )
        self.check(streamed, what, ModelError, "NaN or infinite")

    def test_a_failing_block_ends_all_threads(
        self, streamed: StreamedModel, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forward(self: nn.Module, hidden: Tensor, **_: object) -> Tensor:
            raise KeyboardInterrupt

        monkeypatch.setattr(
            type(streamed.model.get_submodule("model.layers.1")), "forward", forward
        )
        with pytest.raises(KeyboardInterrupt):
            run(streamed, what)
        self.is_clean(streamed)


class Deaf(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).detach()


def test_a_part_without_gradients_has_no_sketch(streamed: StreamedModel) -> None:
    streamed.model.get_submodule("lm_head").__class__ = Deaf
    with pytest.raises(ModelError, match="does not depend on any weight"):
        run(streamed, "sketch")


def test_a_block_that_writes_over_its_inputs_has_no_sketch(
    streamed: StreamedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = streamed.model.get_submodule("model.layers.1")
    monkeypatch.setattr(type(block), "forward", lambda self, hidden, **_: hidden.mul_(2))
    with pytest.raises(ModelError, match=r"writes over its inputs, .* --sensitivity measured"):
        run(streamed, "sketch")


def test_code_that_writes_over_a_block_output_is_seen(
    streamed: StreamedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the original gave is shown to every later pass; a change would spoil them silently."""
    inner = streamed.model.get_submodule("model")

    def forward(self: nn.Module, input_ids: Tensor, **_: object) -> dict[str, Tensor]:
        hidden = inner.embed_tokens(input_ids)  # type: ignore[operator]
        return {"logits": self.lm_head(hidden.mul_(2))}  # type: ignore[operator]

    monkeypatch.setattr(type(streamed.model), "forward", forward)
    with pytest.raises(ModelError, match=r"behind model.embed_tokens writes over its output"):
        run(streamed, "measure")
