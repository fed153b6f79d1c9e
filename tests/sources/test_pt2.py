"""`.pt2`: what torch.export.save writes is read; what could run code is refused unread."""

from __future__ import annotations

import copy
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.errors import SourceError
from mixq.sources import load_model, pt2_archive
from mixq.sources.pt2_program import _is_size

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"

Members = dict[str, bytes]


def read(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"root/{name}", content)
    return str(path)


def edited(members: Members, name: str, edit: Callable[[Any], None]) -> Members:
    content = json.loads(members[name])
    edit(content)
    return {**members, name: json.dumps(content).encode()}


@pytest.fixture(scope="module")
def members(exported: Path) -> Members:
    return read(exported)


def test_an_exported_model_computes_the_same(
    exported: Path, small: nn.Module, images: Tensor
) -> None:
    loaded = load_model(str(exported))
    assert loaded.name == "small"
    for batch in (images, images[:2]):
        assert torch.equal(loaded.model(batch), small(batch))
    assert {name: tuple(p.shape) for name, p in loaded.model.named_parameters()} == {
        name: tuple(p.shape) for name, p in small.named_parameters()
    }


def test_an_exported_model_is_in_eval_mode_and_stays_usable(exported: Path) -> None:
    model = load_model(str(exported)).model
    assert not any(module.training for module in model.modules())
    assert model.eval() is model
    with warnings.catch_warnings():
        # torch 2.13 warns about its own tree specs while it copies them.
        warnings.simplefilter("ignore", FutureWarning)
        twin = copy.deepcopy(model)
    assert twin.eval() is twin


def test_a_rewritten_but_honest_archive_is_read(members: Members, tmp_path: Path) -> None:
    load_model(write(tmp_path / "m.pt2", members))


def test_an_export_in_training_mode_is_refused(
    small: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    model = copy.deepcopy(small).train()
    torch.export.save(torch.export.export(model, (images,)), tmp_path / "m.pt2")
    with pytest.raises(SourceError, match=r"training mode.*call model.eval\(\)"):
        load_model(str(tmp_path / "m.pt2"))


def test_pickled_sample_inputs_are_never_loaded(
    members: Members, tmp_path: Path, trap: Callable[[Path], bytes]
) -> None:
    sprung = tmp_path / "sprung"
    load_model(write(tmp_path / "m.pt2", {**members, SAMPLES: trap(sprung)}))
    assert not sprung.exists()


def pickled(config: Any) -> None:
    next(iter(config["config"].values()))["use_pickle"] = True


def truthy(config: Any) -> None:
    next(iter(config["config"].values()))["use_pickle"] = 1


def opaque(config: Any) -> None:
    config["config"]["c"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}


def not_saying(config: Any) -> None:
    del next(iter(config["config"].values()))["use_pickle"]


@pytest.mark.parametrize(
    ("added", "name", "edit"),
    [
        pytest.param("data/weights/weight_0", WEIGHTS, pickled, id="pickled-weight"),
        pytest.param("data/weights/weight_0", WEIGHTS, truthy, id="nearly-true-pickled-weight"),
        pytest.param("data/weights/weight_0", WEIGHTS, not_saying, id="maybe-pickled-weight"),
        pytest.param("data/constants/opaque_obj_0", CONSTANTS, opaque, id="opaque-object"),
        pytest.param("data/constants/custom_obj_0", None, None, id="custom-object"),
        pytest.param("data/weights/model.pt", None, None, id="old-weights"),
        pytest.param("data/constants/model.pt", None, None, id="old-constants"),
        pytest.param("data/aotinductor/model/wrapper.so", None, None, id="compiled"),
        pytest.param("data.pkl", None, None, id="torch-save"),
        pytest.param("data/weights/../weight_0", None, None, id="path"),
        pytest.param("xl_model_weights/weight_0", None, None, id="unknown-folder"),
    ],
)
def test_pickles_and_code_are_refused_unread(
    added: str,
    name: str | None,
    edit: Callable[[Any], None] | None,
    members: Members,
    tmp_path: Path,
    trap: Callable[[Path], bytes],
) -> None:
    sprung = tmp_path / "sprung"
    changed = {**members, added: trap(sprung)}
    if name is not None and edit is not None:
        changed = edited(changed, name, edit)
    with pytest.raises(SourceError) as caught:
        load_model(write(tmp_path / "m.pt2", changed))
    assert "\n" not in str(caught.value)
    assert not sprung.exists()


def nodes(program: Any) -> Any:
    return program["graph_module"]["graph"]["nodes"]


def set_target(text: str) -> Callable[[Any], None]:
    return lambda program: nodes(program)[-1].update(target=text)


def set_name(text: str) -> Callable[[Any], None]:
    return lambda program: nodes(program)[-1].update(name=text)


def set_key(text: str) -> Callable[[Any], None]:
    def edit(program: Any) -> None:
        program["graph_module"]["graph"]["tensor_values"][text] = None

    return edit


def set_size(text: str) -> Callable[[Any], None]:
    def edit(program: Any) -> None:
        values = program["graph_module"]["graph"]["sym_int_values"]
        next(iter(values.values()))["as_expr"]["expr_str"] = text

    return edit


def set_tree(kind: str | None, context: str | None) -> Callable[[Any], None]:
    tree: dict[str, Any] = {"type": kind, "context": context, "children_spec": []}

    def edit(program: Any) -> None:
        root = program["graph_module"]["module_call_graph"][0]
        root["signature"]["out_spec"] = json.dumps([1, tree])

    return edit


def set_parameter(text: str) -> Callable[[Any], None]:
    def edit(program: Any) -> None:
        specs = program["graph_module"]["signature"]["input_specs"]
        specs[0]["parameter"]["parameter_name"] = text

    return edit


def set_argument(text: str) -> Callable[[Any], None]:
    def edit(program: Any) -> None:
        root = program["graph_module"]["module_call_graph"][0]
        root["signature"]["forward_arg_names"] = [text]

    return edit


def nest(program: Any) -> None:
    program["x"] = json.loads("[" * 500 + "]" * 500)
    for _ in range(3):
        program["x"] = [program["x"]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(set_target("torch.ops.load_library"), "operator", id="load-library"),
        pytest.param(set_target("torch.load"), "operator", id="torch-load"),
        pytest.param(set_target("torch.os.system"), "operator", id="os-system"),
        pytest.param(set_target("torch.ops.aten.from_file.default"), "operator", id="from-file"),
        pytest.param(
            set_target("torch.ops.debugprims.load_tensor.default"), "operator", id="namespace"
        ),
        pytest.param(set_target("_operator.methodcaller"), "operator", id="methodcaller"),
        pytest.param(set_target("#namespace:op"), "operator", id="extension"),
        pytest.param(set_name("a = print(1)"), "name", id="node-name-is-code"),
        pytest.param(set_name("a\nb"), "name", id="node-name-has-two-lines"),
        pytest.param(set_name("import"), "name", id="keyword"),
        pytest.param(set_key("a = print(1)"), "name", id="tensor-name-is-code"),
        pytest.param(set_size("__import__('os').system('true')"), "size", id="import"),
        pytest.param(set_size("exec(chr(49))"), "size", id="builtin"),
        pytest.param(set_size("Symbol('s0').func"), "size", id="attribute"),
        pytest.param(set_size("(lambda: 0)()"), "size", id="lambda"),
        pytest.param(set_size("[1 for s0 in s1]"), "size", id="comprehension"),
        pytest.param(set_size("Add(" * 5000), "size", id="long"),
        pytest.param(
            set_tree("collections.defaultdict", '{"default_factory_module": "antigravity"}'),
            "container",
            id="defaultdict-imports",
        ),
        pytest.param(
            set_tree("builtins.dict", '[{"__enum__": true, "fqn": "antigravity:X"}]'),
            "container",
            id="enum-imports",
        ),
        pytest.param(set_tree("user.Class", "null"), "container", id="unknown-class"),
        pytest.param(set_tree("transformers.a b", "null"), "container", id="odd-class"),
        pytest.param(set_parameter('a"), print("x'), "parameter_name", id="weight-name-is-code"),
        pytest.param(set_argument("x=print(1)"), "forward_arg_names", id="argument-is-code"),
    ],
)
def test_programs_with_code_are_refused(
    edit: Callable[[Any], None], message: str, members: Members, tmp_path: Path
) -> None:
    changed = edited(members, PROGRAM, edit)
    with pytest.raises(SourceError, match=f"has the {message}") as caught:
        load_model(write(tmp_path / "m.pt2", changed))
    assert "\n" not in str(caught.value)


def test_guards_are_never_compiled(members: Members, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"

    def guard(program: Any) -> None:
        program["guards_code"] = [f"__import__('pathlib').Path({str(sprung)!r}).touch() is None"]

    spec = write(tmp_path / "m.pt2", edited(members, PROGRAM, guard))
    copied = pt2_archive.checked_archive(Path(spec)).content
    with zipfile.ZipFile(io.BytesIO(copied)) as archive:
        assert json.loads(archive.read(f"model/{PROGRAM}"))["guards_code"] == []
    load_model(spec).model(torch.rand(2, 1, 4, 4))
    assert not sprung.exists()


def many_zeros(config: Any) -> None:
    entry = next(iter(config["config"].values()))
    entry["tensor_meta"]["sizes"] = [{"as_int": 10**13}]


def without(name: str) -> Callable[[Members], Members]:
    return lambda members: {key: value for key, value in members.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda m: {}, "0 programs", id="empty-zip"),
        pytest.param(without(PROGRAM), "0 programs", id="no-program"),
        pytest.param(
            lambda m: {**m, "models/b.json": m[PROGRAM]}, "2 programs", id="two-programs"
        ),
        pytest.param(without("data/weights/weight_0"), "no bytes", id="weight-missing"),
        pytest.param(without(WEIGHTS), "cannot be read", id="table-missing"),
        pytest.param(without("archive_format"), "cannot be read", id="no-format"),
        pytest.param(
            lambda m: {**m, "data/weights/weight_0": b"1234567"}, "cannot be read", id="odd-size"
        ),
        pytest.param(
            lambda m: {**m, "data/weights/weight_0": b"1234"}, "cannot be read", id="too-short"
        ),
        pytest.param(
            lambda m: edited({**m, "data/weights/weight_0": b""}, WEIGHTS, many_zeros),
            "no bytes",
            id="terabytes-of-zeros",
        ),
        pytest.param(lambda m: {**m, PROGRAM: b"{"}, "damaged JSON", id="json"),
        pytest.param(lambda m: {**m, PROGRAM: b"[1]"}, "no JSON object", id="json-list"),
        pytest.param(lambda m: {**m, PROGRAM: b"{}"}, "cannot be read", id="json-empty"),
        pytest.param(lambda m: {**m, PROGRAM: b"[" * 10**5}, "damaged JSON", id="json-deep"),
        pytest.param(lambda m: edited(m, PROGRAM, nest), "nested|cannot be read", id="nested"),
        pytest.param(lambda m: {**m, WEIGHTS: b'{"config": 1}'}, "no table", id="table"),
    ],
)
def test_damaged_archives_are_refused_in_one_line(
    change: Callable[[Members], Members], message: str, members: Members, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        load_model(write(tmp_path / "m.pt2", change(members)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\x03\x04" + b"\0" * 100, id="cut"),
        pytest.param(b"\x80\x04" * 50, id="pickle"),
    ],
)
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(SourceError, match=r"no intact .pt2 archive"):
        load_model(str(tmp_path / "m.pt2"))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = {**members, "data/weights/weight_99": bytes(10**7)}
    spec = write(tmp_path / "m.pt2", bomb, zipfile.ZIP_DEFLATED)

    def unpacked(*_: object) -> bytes:
        raise AssertionError("something was read from the archive")

    monkeypatch.setattr(zipfile.ZipFile, "read", unpacked)
    with pytest.raises(SourceError, match="more than fit into it"):
        load_model(spec)


def test_compression_is_refused_even_where_it_saves_nothing(
    members: Members, tmp_path: Path
) -> None:
    path = tmp_path / "m.pt2"
    write(path, members)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("root/extra/x", b"x" * 10)
    with pytest.raises(SourceError, match="is compressed"):
        load_model(str(path))


def test_two_files_of_one_name_are_refused(members: Members, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    write(path, members)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"root/{PROGRAM}", members[PROGRAM])
    with pytest.raises(SourceError, match="two files of one name"):
        load_model(str(path))


def test_torch_reads_nothing_but_the_copy(exported: Path, members: Members) -> None:
    copied = pt2_archive.checked_archive(exported).content
    with zipfile.ZipFile(io.BytesIO(copied)) as archive:
        content = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    assert content[SAMPLES] == b""
    assert "stack_trace" not in content[PROGRAM].decode()
    raw = [name for name in members if name.startswith("data/weights/weight_")]
    assert all(content[name] == members[name] for name in raw)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Symbol('s34', positive=True, integer=True)", True),
        ("Mul(Integer(4), Symbol('s34', positive=True, integer=True))", True),
        ("Float('0.5', precision=53)", True),
        ("s0 + 2*u1", True),
        ("-1", True),
        ("", True),
        ("__import__", False),
        ("Symbol('x')", False),
        ("s0.func", False),
        ("s0[0]", False),
        ("'s0'.format", False),
        ("f('s0')", False),
        ("s0\n;s1", False),
        ("\u0455" + "0", False),
    ],
)
def test_sizes(text: str, plain: bool) -> None:
    assert _is_size(text) == plain
