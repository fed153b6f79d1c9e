"""OpenVINO: every kind of layer in every format, the plan's integers, and packed kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.errors import ExportError
from mixq.export.onnx import file
from mixq.export.openvino.decompression import group_size, is_packed
from mixq.export.openvino.runtime import Openvino
from mixq.export.openvino.session import OpenvinoSession
from mixq.export.source import Source, Unit
from mixq.export.verify import output_difference
from mixq.formats import Format
from mixq.sensitivity.outputs import floating_outputs
from tests.export.models import CASES, copies_of, source_of
from tests.export.test_onnxruntime import EXACT, WEIGHT_ONLY
from tests.plans import plan_for

openvino = pytest.importorskip("openvino")

FEW = ("w32", "w16-bf16", "w8g16-zp", "w4g48-zp", "w4g32-affine", "w2g16")
"""For cases of many units, whose graphs take OpenVINO long."""
FORMATS = {
    "recurrent": FEW[1:4],
    **dict.fromkeys(("attention", "raw", "named", "embedding-bag"), FEW),
}
ROUNDED = 2e-2
"""Products with zero points and chips with VNNI: activations become int8 by blocks of 32."""


def exported(source: Source, path: Path) -> OpenvinoSession:
    """Written with exactly the predicted bytes, and loaded."""
    written = Openvino().write(source, path)
    assert written.tensor_bytes == written.predicted_bytes
    return Openvino().open(path)


def test_a_graph_may_be_larger_than_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """protobuf stops at 2 GiB; plain tensors beyond that lie beside the graph."""
    source = source_of("linear-3d", "w32")
    monkeypatch.setattr(file.save, "__kwdefaults__", {"largest": 10})
    session = exported(source, tmp_path / "model.xml")
    assert output_difference(source, session) <= EXACT
    session.close()


@pytest.fixture(
    scope="module",
    params=[case for case in CASES if case not in ("linear-without-bias", "linear-wide")],
)
def weight_only(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A case in every weight-only format: formats, source, and the path of its file."""
    formats = FORMATS.get(request.param, WEIGHT_ONLY)
    source = copies_of(request.param, *formats)
    path = tmp_path_factory.mktemp("case") / "model.xml"
    exported(source, path).close()
    return formats, source, path


def test_the_file_computes_what_the_plan_does(weight_only: Any) -> None:
    formats, source, path = weight_only
    off = differences(source, OpenvinoSession(path))
    rounded = {f for f in formats if Format.parse(f).grid == "zero-point"}
    limits = {f: ROUNDED if f in rounded else EXACT for f in formats}
    assert {f: d for f, d in zip(formats, off, strict=True) if d > limits[f]} == {}


def test_with_float_activations_it_computes_exactly_that(weight_only: Any) -> None:
    """The int8 activations are OpenVINO's own choice, and no fault of the file."""
    formats, source, path = weight_only
    session = OpenvinoSession(path)
    session._model = compiled(path, DYNAMIC_QUANTIZATION_GROUP_SIZE="0")
    off = differences(source, session)
    assert {f: d for f, d in zip(formats, off, strict=True) if d > EXACT} == {}


def test_the_file_holds_the_plans_integers(weight_only: Any) -> None:
    _, source, path = weight_only
    stored = constants(path)
    for name, unit in source.units.items():
        if unit.is_float:
            half = unit.packed.tensors["half"].view(torch.int16).numpy()
            assert np.array_equal(stored[f"{name}.half"].view(np.int16), half)
            continue
        rows, columns = unit.packed.rows, unit.packed.columns
        assert np.array_equal(whole(stored, name, "codes", rows), unit.codes)
        groups = np.arange(0, columns, group_size(unit)) // (
            unit.packed.format.group_size or columns
        )
        parts = {"scales": unit.scales, "zeros": unit.zeros, "minimums": unit.minimums}
        for part, expected in parts.items():
            if expected is None:
                assert f"{name}.{part}" not in stored
            else:
                assert np.array_equal(whole(stored, name, part, rows), expected[:, groups])


WEIGHTS = ("w8", "w8g64", "w8g32-zp", "w4", "w4g32", "w4g64-zp", "w2g32", "w2g64-zp")


def test_products_run_on_packed_weights(tmp_path: Path) -> None:
    source = copies_of("linear-wide", *WEIGHTS)
    session = exported(source, tmp_path / "model.xml")
    kinds = [kind for kind in session.kernels().values() if kind.startswith("FullyConnected")]
    assert sorted(kind.split()[-1] for kind in kinds) == ["u2"] * 2 + ["u4"] * 3 + ["u8"] * 3


def test_lookups_run_on_packed_weights(tmp_path: Path) -> None:
    session = exported(
        copies_of("embedding", "w8", "w8g16-zp", "w4g16", "w4g48-zp"), tmp_path / "m.xml"
    )
    kinds = [kind for kind in session.kernels().values() if kind.startswith("Gather")]
    assert sorted(kind.split()[-1] for kind in kinds) == ["u4", "u4", "u8", "u8"]


class Widths(nn.Module):
    """Products of several widths on the first columns of one input."""

    def __init__(self, *columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.layers = nn.ModuleList(nn.Linear(width, 40) for width in columns)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        layers = zip(self.layers, self.columns, strict=True)
        return {f"out{i}": layer(x[:, :width]) for i, (layer, width) in enumerate(layers)}


WRONG_IN_OPENVINO = {
    "odd-row": (("w4", 75), ("w4-zp", 17), ("w2", 50), ("w2-zp", 66), ("w4", 31), ("w2", 129)),
    "groups": (("w4g40-zp", 80), ("w4g48", 96), ("w2g96", 192), ("w8g33", 66), ("w4g72-zp", 144)),
}


@pytest.mark.parametrize("kind", WRONG_IN_OPENVINO)
@pytest.mark.parametrize("samples", [1, 7])
def test_kernels_that_compute_wrong_numbers_are_avoided(
    kind: str, samples: int, tmp_path: Path
) -> None:
    """What OpenVINO 2026.4 computes with errors of 5 to 150% where its kernels get the codes."""
    formats, columns = zip(*WRONG_IN_OPENVINO[kind], strict=True)
    torch.manual_seed(0)
    model = Widths(*columns).eval()
    plan = plan_for(model, *map(Format.parse, formats))
    source = Source.of(model, plan, Calibration.of(torch.randn(4, 192)))
    session = exported(source, tmp_path / "model.xml")
    other = Source.of(model, plan, Calibration.of(torch.randn(samples, 192)))
    assert max(differences(other, session)) < ROUNDED


@pytest.mark.parametrize(
    ("fmt", "columns", "packed"),
    [
        ("w4", 96, True), ("w4", 75, False), ("w2", 76, True), ("w2", 74, False), ("w8", 7, True),
        ("w4g32", 96, True), ("w4g48", 96, True), ("w4g24", 96, False), ("w4g64", 100, False),
        ("w4g256", 96, True), ("w4-affine", 96, False), ("w16", 96, False), ("w4g64-zp", 96, True),
    ],
)  # fmt: skip
def test_what_stays_packed(fmt: str, columns: int, packed: bool) -> None:
    assert is_packed(unit_of(fmt, columns)) is packed


def test_what_is_unpacked_is_said(tmp_path: Path) -> None:
    written = Openvino().write(source_of("linear", "w4g32-affine"), tmp_path / "model.xml")
    assert "1 of 1 matrices have no packed kernel in OpenVINO" in " ".join(written.notes)


def test_repeated_scales_are_predicted_and_said(tmp_path: Path) -> None:
    source = source_of("linear", "w8g64")
    written = Openvino().write(source, tmp_path / "model.xml")
    # 24 rows of 96: two scales in the plan, three in the file.
    assert written.predicted_bytes == source.plan.predicted.weight_bytes + 24 * 2
    assert "48 bytes more than the plan stores" in " ".join(written.notes)


@pytest.mark.parametrize("case", ["linear-3d", "convolution", "named", "tied"])
def test_other_batches_run(case: str, tmp_path: Path) -> None:
    source = source_of(case, "w4g32")
    session = exported(source, tmp_path / "model.xml")
    batch = CASES[case].inputs()
    for samples in (1, 5):
        if isinstance(batch, dict):
            other: Any = {name: part[:1].repeat(samples, 1) for name, part in batch.items()}
        else:
            assert isinstance(batch, Tensor)
            other = batch[:1].repeat(samples, *(1 for _ in batch.shape[1:]))
        assert (
            output_difference(Source.of(source.model, source.plan, Calibration.of(other)), session)
            < EXACT
        )


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    source = source_of("tied", "w4g32-zp")
    written = Openvino().write(source, tmp_path / "model.xml")
    assert written.tensor_bytes == source.plan.predicted.weight_bytes


def test_names_of_inputs_and_outputs_stay(tmp_path: Path) -> None:
    session = exported(source_of("named", "w8"), tmp_path / "model.xml")
    assert (session.input_names, session.output_names) == (("a", "b"), ("sum", "left"))
    with pytest.raises(ExportError, match="needs input 'b', which the batch lacks; it takes a, b"):
        session.run({"a": torch.randn(3, 32)})
    with pytest.raises(ExportError, match="OpenVINO cannot run the batch: ") as caught:
        session.run({"a": torch.randn(3, 32), "b": torch.randn(3, 3)})
    assert "\n" not in str(caught.value)


def test_rounded_activations_are_refused() -> None:
    with pytest.raises(
        ExportError, match=r"layer 'weight' is planned as w8a8-dynamic, but .* none"
    ):
        Openvino().check(source_of("linear", "w8a8-dynamic"))


def test_a_name_without_xml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'model.bin' is no name .* ends in .xml"):
        Openvino().write(source_of("linear", "w8"), tmp_path / "model.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["no-graph", "no-weights", "short-weights"])
def test_a_damaged_file_is_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    exported(source_of("linear", "w4g32"), path).close()
    weights = path.with_suffix(".bin")
    if damage == "no-graph":
        path.write_text("<no graph at all>")
    elif damage == "no-weights":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ExportError, match="does not load in OpenVINO") as caught:
        OpenvinoSession(path)
    assert "\n" not in str(caught.value)


def differences(source: Source, session: OpenvinoSession) -> list[float]:
    """Of each output."""
    (batch,) = source.calibration.batches
    with torch.no_grad():
        expected = floating_outputs(call(source.applied, batch))
    found = session.run(batch)
    return [float((found[n] - expected[n]).norm() / expected[n].norm()) for n in expected]


def compiled(path: Path, **options: str) -> Any:
    every = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", **options}
    return openvino.Core().compile_model(str(path), "CPU", every)


def constants(path: Path) -> dict[str, np.ndarray]:
    """Constants of a file by name, codes as one number each."""
    found = {}
    for node in openvino.Core().read_model(str(path)).get_ops():
        if node.get_type_name() == "Constant":
            name, shape = node.get_friendly_name(), tuple(node.get_output_shape(0))
            kind = node.get_element_type().get_type_name()
            raw = np.asarray(node.data)
            found[name] = raw
            if kind in ("u4", "u2"):
                bits = int(kind[1:])
                lanes = [
                    (raw.reshape(-1) >> (bits * i)) & ((1 << bits) - 1) for i in range(8 // bits)
                ]
                found[name] = np.stack(lanes, -1).reshape(-1)[: int(np.prod(shape))].reshape(shape)
    return found


def whole(stored: dict[str, np.ndarray], name: str, part: str, rows: int) -> np.ndarray:
    """A part of a unit as (rows, ...), put together of its whole groups and the last one."""
    blocks = [
        key for key in stored if key == f"{name}.{part}" or key.startswith(f"{name}.{part}.")
    ]
    return np.concatenate([stored[key].reshape(rows, -1) for key in sorted(blocks)], axis=1)


def unit_of(fmt: str, columns: int) -> Unit:
    model = nn.Linear(columns, 4).eval()
    source = Source.of(
        model, plan_for(model, Format.parse(fmt)), Calibration.of(torch.randn(2, columns))
    )
    return source.units["weight"]


def test_a_file_may_ask_openvino_not_to_round(tmp_path: Path) -> None:
    source = source_of("linear-wide", "w4g32-zp")
    runtime = Openvino(activations="float")
    runtime.write(source, tmp_path / "model.xml")
    assert output_difference(source, runtime.open(tmp_path / "model.xml")) < 2e-6
