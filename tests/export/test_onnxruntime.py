"""ONNX Runtime: every kind of layer in every format, exactly the plan's integers and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.errors import ExportError, UsageError
from mixq.export.onnx import file
from mixq.export.onnx.kernel import kernels
from mixq.export.onnx.matmul import block_size
from mixq.export.onnx.session import OnnxSession
from mixq.export.onnxruntime import OnnxRuntime
from mixq.export.source import Source
from mixq.export.verify import output_difference
from mixq.formats import Format
from mixq.sensitivity.outputs import floating_outputs
from tests.export.models import CASES, copies_of, source_of
from tests.plans import plan_for

WEIGHT_ONLY = (
    "w32", "w16", "w16-bf16", "w8", "w8g64", "w8g32-signed", "w8g16-zp", "w8g64-affine",
    "w4", "w4g32", "w4g48-zp", "w4g64-zp", "w4g24-zp", "w4g32-affine", "w4-affine", "w4g256",
    "w2g32-zp", "w2g16", "w2g64-affine", "w2-signed",
)  # fmt: skip
EXACT = 2e-6
"""Relative: float32 sums of a few hundred products in another order."""


def exported(source: Source, path: Path, **options: object) -> OnnxSession:
    """Written with exactly the predicted bytes, and loaded."""
    runtime = OnnxRuntime(**options)  # type: ignore[arg-type]
    written = runtime.write(source, path)
    assert written.tensor_bytes == written.predicted_bytes
    return runtime.open(path)


@pytest.fixture(scope="module", params=list(CASES))
def weight_only(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A case in every weight-only format: its source and the path of its verified file."""
    source = copies_of(request.param, *WEIGHT_ONLY)
    path = tmp_path_factory.mktemp("case") / "model.onnx"
    exported(source, path, activations="float").close()
    return source, path


def test_the_file_computes_what_the_plan_does(weight_only: tuple[Source, Path]) -> None:
    source, path = weight_only
    (batch,) = source.calibration.batches
    with torch.no_grad():
        expected = floating_outputs(call(source.applied, batch))
    found = OnnxSession(path).run(batch)
    off = {
        fmt: float((found[name] - expected[name]).norm() / expected[name].norm())
        for fmt, name in zip(WEIGHT_ONLY, expected, strict=True)
    }
    assert {fmt: difference for fmt, difference in off.items() if difference > EXACT} == {}


@pytest.mark.parametrize("case", ["convolution", "transposed-convolution", "raw"])
def test_weights_unpacked_while_loading_are_the_same(case: str, tmp_path: Path) -> None:
    source = copies_of(case, *WEIGHT_ONLY)
    session = exported(source, tmp_path / "model.onnx", activations="float", unpack="load")
    (batch,) = source.calibration.batches
    with torch.no_grad():
        expected = floating_outputs(call(source.applied, batch))
    found = session.run(batch)
    for name in expected:
        assert float((found[name] - expected[name]).norm() / expected[name].norm()) < EXACT
    assert "DequantizeLinear" not in {
        node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node
    }


def test_the_file_holds_the_plans_integers(weight_only: tuple[Source, Path]) -> None:
    source, path = weight_only
    stored = {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    for name, unit in source.units.items():
        if unit.is_float:
            half = unit.packed.tensors["half"].float().numpy()
            assert np.array_equal(stored[f"{name}.half"].astype(np.float32), half)
            continue
        bits = unit.packed.format.bits
        codes = stored[f"{name}.codes"]
        assert np.array_equal(_unsigned(codes, bits, unit.codes.shape), unit.codes)
        assert np.array_equal(stored[f"{name}.scales"], unit.scales)
        if unit.zeros is not None:
            zeros = _unsigned(stored[f"{name}.zeros"], bits, unit.zeros.shape)
            assert np.array_equal(zeros, unit.zeros)
        if unit.minimums is not None:
            assert np.array_equal(stored[f"{name}.minimums"], unit.minimums)


@pytest.mark.parametrize("case", ["linear-3d", "tied", "attention", "named"])
def test_rounded_activations_stay_within_their_tolerance(case: str, tmp_path: Path) -> None:
    source = source_of(case, "w8g32", "w4g32-zp", "w2g32-zp")
    session = exported(source, tmp_path / "model.onnx", activations="int8")
    assert EXACT < output_difference(source, session) < 2e-2


@pytest.mark.parametrize(
    ("case", "fmt"),
    [
        ("linear-3d", "w8a8-dynamic"),
        ("linear-3d", "w8a8-reduced-dynamic"),
        ("linear", "w4a8-dynamic"),
        ("convolution", "w8a8-reduced-dynamic"),
        ("convolution-1d", "w8a8-dynamic"),
        ("depthwise", "w8a8-dynamic"),
        ("linear-3d", "w8a8g32-dynamic"),
        ("linear", "w4a8-zp-dynamic"),
    ],
)
def test_dynamic_activations_are_those_that_were_measured(
    case: str, fmt: str, tmp_path: Path
) -> None:
    """The applied plan rounds activations as the runtime does, so only float sums differ."""
    source = source_of(case, fmt)
    session = exported(source, tmp_path / "model.onnx")
    # A number that lies between two codes may be rounded either way: a step of 255 in few places.
    assert output_difference(source, session) < 1e-3


def _unsigned(stored: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Codes as `Unit.codes` has them, from bytes of packed rows or from small integers."""
    if stored.dtype == np.uint8 and stored.shape != shape:
        lanes = [(stored >> (bits * lane)) & ((1 << bits) - 1) for lane in range(8 // bits)]
        return np.stack(lanes, axis=-1).reshape(shape)
    signed = stored.dtype.name.startswith("int")
    return stored.astype(np.int16) + ((1 << (bits - 1)) if signed else 0)


@pytest.mark.parametrize("case", ["linear-3d", "convolution", "named", "tied", "attention"])
def test_other_batches_and_lengths_run(case: str, tmp_path: Path) -> None:
    source = source_of(case, "w4g32-zp")
    session = exported(source, tmp_path / "model.onnx", activations="float")
    for samples in (1, 5):
        batch = CASES[case].inputs()
        parts = batch.items() if isinstance(batch, dict) else [("", batch)]
        wide = {name: torch.cat([part] * samples)[:samples] for name, part in parts}  # type: ignore[list-item]
        given_ = wide if isinstance(batch, dict) else wide[""]
        other = Source.of(source.model, source.plan, Calibration.of([given_]))
        assert output_difference(other, session) < EXACT


def test_token_ids_of_another_length_run(tmp_path: Path) -> None:
    source = source_of("tied", "w4g32-zp")
    session = exported(source, tmp_path / "model.onnx", activations="float")
    tokens = torch.randint(0, 40, (3, 17))
    expected = call(source.applied, tokens)
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(session.run(tokens)["output"], expected.detach())


def test_outputs_have_their_names(tmp_path: Path) -> None:
    session = exported(source_of("named", "w8"), tmp_path / "model.onnx")
    assert session.input_names == ("a", "b")
    assert session.output_names == ("sum", "left")


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    source = source_of("tied", "w4g32-zp")
    written = OnnxRuntime().write(source, tmp_path / "model.onnx")
    assert written.tensor_bytes == source.plan.predicted.weight_bytes
    names = [item.name for item in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert [name for name in names if name.endswith(".codes")] == ["embedding.weight.codes"]


class ReadTwice(nn.Module):
    """A table whose rows are picked and whose numbers are added up, in either order."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.embedding, self.first = nn.Embedding(40, 32), first

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.first:
            picked = self.embedding(tokens)
            return picked + self.embedding.weight.sin().mean(0)  # type: ignore[no-any-return]
        mean = self.embedding.weight.sin().mean(0)
        return mean + self.embedding(tokens)  # type: ignore[no-any-return]


@pytest.mark.parametrize("first", [True, False], ids=["gather-first", "gather-last"])
@pytest.mark.parametrize(
    "fmt", ["w8", "w8g16-zp", "w4g16", "w4g16-zp", "w4g32-zp", "w2g16", "w4g16-affine"]
)
def test_two_layouts_of_one_unit_are_stored_once(tmp_path: Path, fmt: str, first: bool) -> None:
    model = ReadTwice(first=first).eval()
    data = Calibration.of(torch.randint(0, 40, (3, 6)))
    source = Source.of(model, plan_for(model, Format.parse(fmt)), data)
    written = OnnxRuntime().write(source, tmp_path / "model.onnx")
    assert written.tensor_bytes == written.predicted_bytes == source.plan.predicted.weight_bytes
    session = OnnxRuntime().open(tmp_path / "model.onnx")
    assert output_difference(source, session) <= EXACT
    types = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert {"GatherBlockQuantized", "DequantizeLinear"} <= types


def test_a_length_that_cannot_stay_open_is_said(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(20, 16), nn.Linear(96, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.embedding(tokens).reshape(len(tokens), 96))
            return out

    model = Fixed().eval()
    data = Calibration.of(torch.randint(0, 20, (3, 6)))
    written = OnnxRuntime().write(
        Source.of(model, plan_for(model, Format.parse("w8g16")), data), tmp_path / "model.onnx"
    )
    assert [note for note in written.notes if "'tokens' takes 6 numbers" in note]


def test_nothing_is_said_of_what_stays_open(tmp_path: Path) -> None:
    written = OnnxRuntime().write(source_of("tied", "w8g16"), tmp_path / "model.onnx")
    assert not [note for note in written.notes if "no other" in note]


def test_what_no_output_needs_is_left_out_and_said(tmp_path: Path) -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(32, 8), nn.Linear(32, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.unused(x)
            out: torch.Tensor = self.used(x)
            return out

    model = Beside().eval()
    plan = plan_for(model, Format.parse("w8g32"))
    source = Source.of(model, plan, Calibration.of(torch.randn(2, 32)))
    written = OnnxRuntime().write(source, tmp_path / "model.onnx")
    # 16 x 32 codes, 16 scales of 2 bytes, 16 biases of 4.
    assert "608 bytes of the model are not in the file" in " ".join(written.notes)
    assert written.tensor_bytes == source.plan.predicted.weight_bytes - 608


def test_tensors_beyond_one_message_lie_in_a_file_beside(tmp_path: Path) -> None:
    source = source_of("linear", "w8g32")
    from mixq.export.onnx.graph import float_graph

    graph = float_graph(source)
    path = tmp_path / "model.onnx"
    file.save(graph.model, path, largest=1000)
    assert file.data_file(path).stat().st_size >= 96 * 24 * 4
    assert path.stat().st_size < 5000
    assert output_difference(source, OnnxSession(path)) < EXACT


def test_layers_round_no_more_coarsely_than_the_output_allows(tmp_path: Path) -> None:
    """A layer whose inputs have outliers takes smaller blocks where the tolerance asks for it."""
    torch.manual_seed(0)
    model = nn.Linear(128, 32, bias=False).eval()
    outliers = torch.randn(16, 4, 128)
    with torch.no_grad():
        model.weight[:, 0] = 0.0  # what is large is not read, and only widens its block's range
    outliers[..., 0] *= 14
    plan = plan_for(model, Format.parse("w8g64"))
    source = Source.of(model, plan, Calibration.of(outliers))
    fast = exported(source, tmp_path / "fast.onnx", activations="int8")
    auto = exported(source, tmp_path / "auto.onnx", activations="auto")
    assert output_difference(source, fast) > 2e-2
    assert output_difference(source, auto) <= 2e-2
    blocks = {
        attribute.i
        for node in onnx.load(tmp_path / "auto.onnx").graph.node
        for attribute in node.attribute
        if attribute.name == "block_size"
    }
    assert min(blocks) < 64


@given(
    bits=st.sampled_from([8, 4, 2]),
    group=st.one_of(st.none(), st.integers(16, 256)),
    columns=st.integers(1, 700),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_blocks_divide_groups(bits: int, group: int | None, columns: int) -> None:
    fmt = Format(bits, group)
    block = block_size(fmt, columns)
    size = columns if group is None else group
    if block is None:
        assert size < columns
        assert size % 16 != 0
        return
    # A group is whole blocks, or the only one of its row.
    assert size % block == 0 or size >= columns
    ladder = kernels(fmt, columns)
    assert all(size % kernel.block == 0 or size >= columns for kernel in ladder)
    assert not ladder[-1].rounds


@pytest.mark.parametrize("activations", ["", "int4", 8])
def test_unknown_words_are_refused(activations: object) -> None:
    with pytest.raises(UsageError, match="auto, int8, float"):
        OnnxRuntime(activations=activations)  # type: ignore[arg-type]


def test_a_model_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x)
            return out if float(out.sum()) > 0 else -out

    model = Branches().eval()
    source = Source.of(
        model, plan_for(model, Format.parse("w8")), Calibration.of(torch.randn(2, 8))
    )
    with pytest.raises(ExportError, match=r"cannot be traced by torch.export: .*") as caught:
        OnnxRuntime().write(source, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph at all")
    with pytest.raises(ExportError, match=r"does not load in ONNX Runtime") as caught:
        OnnxSession(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("activations", "block"), [("int8", 32), ("float", 0)])
def test_chosen_kernels_are_told(
    tmp_path: Path, activations: Literal["int8", "float"], block: int
) -> None:
    source = source_of("linear-3d", "w8g32")
    written = OnnxRuntime(activations=activations).write(source, tmp_path / "model.onnx")
    assert set(written.blocks.values()) == {block}
    assert set(written.blocks) == set(source.units)
