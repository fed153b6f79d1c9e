"""Plan: a value that round-trips through JSON and refuses what is not one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mixq.errors import PlanError
from mixq.formats import GRIDS, GROUP_SIZES, Format, Method
from mixq.plan import LARGEST_FILE, Plan
from mixq.plan_parts import (
    LONGEST_LIST,
    CertificateInfo,
    HardwareInfo,
    Layer,
    Measurement,
    MetricInfo,
    ModelInfo,
    Prediction,
    StabilityInfo,
    UniformInfo,
    Workload,
)

GOLDEN = Path(__file__).parent / "data" / "plan-v1.json"
"""Written by mixq 0.1.0 for the demo; every later mixq must read it, so it never changes."""

law = settings(derandomize=True, deadline=None, max_examples=50)

counts = st.integers(0, 1 << 62)
amounts = st.floats(0, allow_infinity=False, allow_nan=False)
numbers = st.floats(allow_infinity=False, allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
metrics = st.dictionaries(texts, numbers, max_size=3)
shares = st.floats(0, 1)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    bits = draw(st.sampled_from([32, 16, 8, 4, 2]))
    integer = bits < 16
    return Layer(
        bits=bits,
        group_size=draw(st.none() | st.integers(*GROUP_SIZES)) if integer else None,
        grid=draw(st.sampled_from(GRIDS[bits])),
        method=draw(st.sampled_from(get_args(Method))) if integer else "rtn",
        kernel=draw(texts),
        weight_bytes=draw(counts),
        latency_s=draw(amounts),
        error=draw(amounts),
        error_se=draw(amounts),
        shape=draw(st.lists(st.integers(0, 9), max_size=5)),
        matrix=(draw(counts), draw(counts)),
        aliases=draw(st.lists(texts, max_size=2)),
        stability=draw(st.none() | shares),
        format_stability=draw(st.none() | shares),
    )


plans = st.builds(
    Plan,
    mixq_version=texts,
    seed=st.integers(),
    model=st.builds(
        ModelInfo, name=texts, fingerprint=texts, parameters=counts, original_bytes=counts
    ),
    hardware=st.builds(HardwareInfo, name=texts, fingerprint=texts, runtime=texts, threads=counts),
    workload=st.builds(
        Workload,
        batch_size=counts,
        shapes=st.dictionaries(texts, st.lists(st.integers(), max_size=3), max_size=2),
    ),
    budget=st.dictionaries(texts, amounts, max_size=3),
    error_metric=st.builds(
        MetricInfo, name=texts, outputs=st.dictionaries(texts, amounts, max_size=2)
    ),
    layers=st.dictionaries(texts, layers(), min_size=1, max_size=3),
    predicted=st.builds(
        Prediction,
        compression=amounts,
        weight_bytes=counts,
        latency_s=amounts,
        baseline_latency_s=amounts,
        peak_memory_bytes=counts,
        error=amounts,
        output_mse=st.none() | amounts,
    ),
    measured=st.builds(
        Measurement,
        error=amounts,
        error_se=amounts,
        heldout_error=st.none() | amounts,
        output_mse=amounts,
        output_mse_se=amounts,
        relative_output_mse=amounts,
        heldout_output_mse=st.none() | amounts,
        metric=metrics,
        original_metric=metrics,
    ),
    certificate=st.builds(
        CertificateInfo,
        objective=amounts,
        lower_bound=amounts,
        gap=amounts,
        solver=texts,
        states=counts,
    ),
    uniform=st.dictionaries(
        texts,
        st.builds(
            UniformInfo,
            error=amounts,
            heldout_error=st.none() | amounts,
            weight_bytes=counts,
            compression=amounts,
            latency_s=amounts,
            output_mse=amounts,
            heldout_output_mse=st.none() | amounts,
            metric=metrics,
        ),
        max_size=2,
    ),
    notes=st.lists(texts, max_size=2),
    stability=st.none()
    | st.builds(StabilityInfo, samples=counts, resamplings=counts, kept=shares, regret=amounts),
)


@law
@given(plans)
def test_a_plan_is_what_was_saved(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    loaded = Plan.load(path)
    assert loaded == plan
    assert loaded.assignment == plan.assignment
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


@law
@given(plans)
def test_a_plan_prints_one_line_per_layer(plan: Plan) -> None:
    lines = str(plan).split("\n")
    assert len(lines) == len(plan.layers) + 1
    assert all(line.isprintable() for line in lines)


@law
@given(plans, plans)
def test_diff_lists_exactly_the_units_that_differ(one: Plan, two: Plan) -> None:
    formats = [{name: fmt.name for name, fmt in p.assignment.items()} for p in (one, two)]
    names = formats[0].keys() | formats[1].keys()
    expected = {n: (formats[0].get(n), formats[1].get(n)) for n in names}
    assert one.diff(two) == {n: pair for n, pair in expected.items() if pair[0] != pair[1]}
    assert {n: pair[::-1] for n, pair in one.diff(two).items()} == two.diff(one)
    assert one.diff(one) == {}


def golden() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    return data


def test_version_1_is_read_for_ever() -> None:
    plan = Plan.load(GOLDEN)
    assert plan.certificate.states == 0  # plans said nothing of it then
    assert plan.schema_version == 1
    assert {name: fmt.name for name, fmt in plan.assignment.items()} == {
        "position": "w32",
        "stem.weight": "w32",
        "depthwise.weight": "w32",
        "pointwise.weight": "w8g64",
        "reduce.weight": "w8g64",
        "attention.in_proj_weight": "w8g64",
        "attention.out_proj.weight": "w8g64",
        "mlp_up.weight": "w4g64-zp",
        "mlp_down.weight": "w4g64-zp",
        "wide.weight": "w4g64-zp",
        "classifier.weight": "w32",
    }
    assert plan.predicted.weight_bytes == 125_768
    assert plan.budget == {"compression": 5.0}


def test_plans_before_metrics_are_in_squared_errors() -> None:
    plan = Plan.load(GOLDEN)
    assert (plan.error_metric.name, plan.error_metric.outputs) == ("mse", {})
    assert plan.predicted.error == plan.predicted.output_mse
    assert plan.measured.error == plan.measured.output_mse
    assert plan.measured.error_se == plan.measured.output_mse_se
    assert plan.measured.heldout_error == plan.measured.heldout_output_mse
    for info in plan.uniform.values():
        assert (info.error, info.heldout_error) == (info.output_mse, info.heldout_output_mse)


def test_another_metric_stands_beside_squared_errors() -> None:
    data = golden()
    data["error_metric"] = {"name": "kl", "outputs": {"logits": 1.0}}
    data["predicted"] |= {"error": 0.25, "output_mse": None}
    data["measured"] |= {"error": 0.5, "error_se": 0.125, "heldout_error": None}
    plan = Plan.from_json(json.dumps(data))
    assert plan.predicted.output_mse is None
    assert plan.measured.error == 0.5
    assert plan.measured.heldout_error is None
    assert plan.measured.output_mse == data["measured"]["output_mse"]
    assert plan.to_json()["error_metric"] == data["error_metric"]
    assert str(plan).endswith("output error 0.5 (kl)")


def test_no_field_of_version_1_is_renamed_or_dropped() -> None:
    def missing(old: object, new: object, place: str = "") -> list[str]:
        if not isinstance(old, dict) or not isinstance(new, dict):
            return [] if old == new else [place]
        return [
            lost
            for key, value in old.items()
            for lost in (
                missing(value, new[key], f"{place}.{key}") if key in new else [f"{place}.{key}"]
            )
        ]

    assert missing(golden(), Plan.load(GOLDEN).to_json()) == []


def test_fields_of_later_versions_are_passed_over() -> None:
    data = golden()
    data["new"] = data["predicted"]["new"] = data["layers"]["position"]["new"] = [{"deep": [1]}]
    assert Plan.from_json(json.dumps(data)) == Plan.load(GOLDEN)


def test_a_plan_does_not_change() -> None:
    plan = Plan.load(GOLDEN)
    with pytest.raises(ValidationError):
        plan.seed = 1
    with pytest.raises(ValidationError):
        plan.layers["position"].bits = 4


def refusal(text: str) -> str:
    with pytest.raises(PlanError) as refused:
        Plan.from_json(text, what="plan p.json")
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) < 700
    assert "p.json" in message
    return message


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999], ids="{:.1%}".format)
def test_a_truncated_plan_is_refused(share: float) -> None:
    text = json.dumps(golden())
    assert "not valid JSON" in refusal(text[: int(len(text) * share)])


@pytest.mark.parametrize("text", ["[]", "1", '"plan"', "null", "[{}]"])
def test_a_plan_is_an_object(text: str) -> None:
    assert "a plan is an object" in refusal(text)


@pytest.mark.parametrize(
    "version",
    [None, 0, 2, -1, True, 1.5, "1", [1], {"1": 1}, 10**4000, "x\n" * 10**5, [[[[[[]]]]]]],
    ids=lambda version: repr(version)[:20],
)
def test_other_schema_versions_are_refused(version: object) -> None:
    message = refusal(json.dumps({**golden(), "schema_version": version}))
    assert "schema_version" in message
    assert "version 1" in message


def test_a_plan_without_a_schema_version_is_refused() -> None:
    assert "schema_version None" in refusal("{}")


Edit = Callable[[dict[str, Any]], object]


def at(*path: str, value: object) -> Edit:
    """The edit that puts `value` at `path`."""

    def edit(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return edit


LAYER = ("layers", "wide.weight")
EDITS: list[tuple[Edit, str]] = [
    (at("layers", value={}), "at least one layer"),
    (at("layers", value=[]), "layers"),
    (at("layers", value=None), "layers"),
    (at("layers", value={"a": 1}), "layers.a"),
    (at(*LAYER, "bits", value=3), "layers.wide.weight: bits is 3"),
    (at(*LAYER, "bits", value="4"), "layers.wide.weight.bits"),
    (at(*LAYER, "bits", value=4.0), "layers.wide.weight.bits"),
    (at(*LAYER, "bits", value=True), "layers.wide.weight.bits"),
    (at(*LAYER, "bits", value=10**4000), "bits"),
    (at(*LAYER, "bits", value=None), "layers.wide.weight.bits"),
    (at(*LAYER, "group_size", value=8), "group_size is 8"),
    (at(*LAYER, "group_size", value=10**4000), "group_size"),
    (at(*LAYER, "grid", value="cubic"), "layers.wide.weight.grid"),
    (at(*LAYER, "method", value="x" * 10**6), "layers.wide.weight: method is"),
    (at(*LAYER, "activation", value="\x1b[2J\n"), "layers.wide.weight.activation"),
    (at(*LAYER, "weight_bytes", value=-1), "layers.wide.weight.weight_bytes"),
    (at(*LAYER, "weight_bytes", value=1 << 63), "layers.wide.weight.weight_bytes"),
    (at(*LAYER, "weight_bytes", value=1.5), "layers.wide.weight.weight_bytes"),
    (at(*LAYER, "latency_s", value=-1e-9), "layers.wide.weight.latency_s"),
    (at(*LAYER, "latency_s", value="1"), "layers.wide.weight.latency_s"),
    (at(*LAYER, "error", value=10**400), "layers.wide.weight.error"),
    (at(*LAYER, "stability", value=1.01), "layers.wide.weight.stability"),
    (at(*LAYER, "format_stability", value="all"), "layers.wide.weight.format_stability"),
    (at("stability", value={"samples": 8}), "stability.resamplings"),
    (at(*LAYER, "shape", value=["a"]), "layers.wide.weight.shape.0"),
    (at(*LAYER, "shape", value=[1] * 10**6), "layers.wide.weight.shape"),
    (at(*LAYER, "shape", value=["a"] * 10**6), "layers.wide.weight.shape"),
    (at(*LAYER, "matrix", value=[1]), "layers.wide.weight.matrix"),
    (at(*LAYER, "matrix", value=[1, 2, 3]), "layers.wide.weight.matrix"),
    (at(*LAYER, "matrix", value=[1, -2]), "layers.wide.weight.matrix.1"),
    (at(*LAYER, "matrix", value="12"), "layers.wide.weight.matrix"),
    (at("layers", "\x1b[2J\n\u202e", value={}), r"layers.\x1b[2J\n\u202e"),
    (at("layers", "\ud800", value=golden()["layers"]["position"]), "surrogates"),
    (at("layers", "n" * 10**6, value={}), "layers.nnn"),
    (at("model", value={}), "model.name"),
    (at("model", "name", value="\udfff"), "surrogates"),
    (at("model", "original_bytes", value=-5), "model.original_bytes"),
    (at("predicted", "compression", value=[[[[[[[[[[1]]]]]]]]]]), "predicted.compression"),
    (at("measured", "metric", value={"accuracy": "high"}), "measured.metric.accuracy"),
    (at("budget", value={"compression": -4.0}), "budget.compression"),
    (at("uniform", value={"8": {}}), "uniform.8"),
    (at("notes", value=["x"] * (LONGEST_LIST + 1)), "notes"),
    (at("seed", value=None), "seed"),
    (lambda data: data.pop("certificate"), "certificate: Field required"),
]


@pytest.mark.parametrize(
    ("edit", "place"), EDITS, ids=[f"{n}-{e[1]}" for n, e in enumerate(EDITS)]
)
def test_a_broken_field_is_named(edit: Edit, place: str) -> None:
    data = golden()
    edit(data)
    assert place in refusal(json.dumps(data))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_are_finite(word: str) -> None:
    data = golden()
    data["predicted"]["latency_s"] = "PLACE"
    refusal(json.dumps(data).replace('"PLACE"', word))


@pytest.mark.parametrize("depth", [10, 300, 600, 900, 10**5])
@pytest.mark.parametrize("key", ["layers", "seed", "budget", "notes", "unknown"])
def test_deep_nesting_is_refused_or_passed_over(key: str, depth: int) -> None:
    text = json.dumps({**golden(), key: "PLACE"}).replace('"PLACE"', "[" * depth + "]" * depth)
    if key == "unknown" and depth < 900:
        assert Plan.from_json(text) == Plan.load(GOLDEN)
    elif key != "unknown" or depth > 900:
        refusal(text)


def test_a_hundred_thousand_layers_are_no_problem() -> None:
    plan = Plan.load(GOLDEN)
    layer = plan.layers["wide.weight"]
    names = (f"model.layers.{index}.self_attn.q_proj.weight" for index in range(100_000))
    many = plan.model_copy(update={"layers": dict.fromkeys(names, layer)})
    text = json.dumps(many.to_json(), indent=1)
    assert len(text) < LARGEST_FILE
    assert len(Plan.from_json(text).layers) == 100_000


HOSTILE = {
    "layers": '"{}": 1',
    "notes": "{}",
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own count")
@pytest.mark.parametrize("key", HOSTILE)
def test_a_million_errors_take_little_memory(key: str, tmp_path: Path) -> None:
    # In a process of its own, whose peak is its own: 1,000,000 reports took 1.6 GB.
    path = tmp_path / "plan.json"
    entries = ",".join(HOSTILE[key].format(index) for index in range(1_000_000))
    brackets = "[]" if key == "notes" else "{}"
    text = json.dumps({**golden(), key: "PLACE"})
    path.write_text(text.replace('"PLACE"', brackets[0] + entries + brackets[1]), "utf-8")
    code = (
        "import sys; from mixq.plan import Plan; from mixq.errors import PlanError\n"
        "try: Plan.load(sys.argv[1])\n"
        "except PlanError as error: print(error)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, peak_kib = done.stdout.splitlines()
    assert key in refused
    assert int(peak_kib) < 400_000


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(PlanError, match="larger than"):
        Plan.load(path)


def test_the_place_of_a_plan_is_shown_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b[2J.json"
    with pytest.raises(PlanError) as refused:
        Plan.load(path)
    assert str(refused.value).isprintable()
    path.write_text("{}")
    with pytest.raises(PlanError) as refused:
        Plan.load(path)
    assert str(refused.value).isprintable()


def test_formats_are_values() -> None:
    plan = Plan.load(GOLDEN)
    assert plan.assignment["wide.weight"] == Format(4, 64, "zero-point")
    assert plan.diff(plan.model_copy(update={"layers": {"new": plan.layers["position"]}})) == {
        **{name: (fmt.name, None) for name, fmt in plan.assignment.items()},
        "new": (None, "w32"),
    }
