"""What is built, installed and declared is what lies in the tree."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mixq

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
LINKS = {"search": "../search", "profiles": "../profiles"}
TESTED_EXTRAS = ("hf", "onnx", "openvino", "gguf", "genai", "mlx", "compressed-tensors")
BYPRODUCTS = {"__pycache__", ".DS_Store"}


def folder_of(package: str) -> Path:
    """Folder that holds a package's files: mixq.search lies in search/."""
    mapped = SETUPTOOLS["package-dir"].get(package)
    return ROOT / mapped if mapped else ROOT.joinpath(*package.split("."))


def packages_on_disk() -> list[str]:
    """Every folder with Python files, links not followed."""
    return sorted(
        {
            ".".join([package, *path.parent.relative_to(ROOT / top).parts])
            for top, package in (("mixq", "mixq"), *((name, f"mixq.{name}") for name in LINKS))
            for path in (ROOT / top).rglob("*.py")
        }
    )


def data_files(package: str) -> set[str]:
    """Files of one package that are no Python source and no by-product; `folder/name` below it.

    A folder without Python files is no package of its own and belongs to the one above.
    """
    top = folder_of(package)
    folders = [path for path in top.iterdir() if path.is_dir() and not path.is_symlink()]
    plain = [
        path for path in folders if not any(path.rglob("*.py")) and path.name not in BYPRODUCTS
    ]
    return {
        path.relative_to(top).as_posix()
        for folder in (top.iterdir(), *(path.rglob("*") for path in plain))
        for path in folder
        if path.is_file() and path.suffix not in {".py", ".pyc"} and path.name not in BYPRODUCTS
    }


def declared(*requirements: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(text) for group in requirements for text in group]
    # An extra may name others of ours.
    return {
        canonicalize_name(requirement.name): requirement
        for requirement in parsed
        if requirement.name != "mixq"
    }


def third_party_imports() -> Iterator[tuple[str, str]]:
    """(top-level name, file) of every import that is neither ours nor the standard library's."""
    for top in ("mixq", *LINKS):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                else:
                    continue
                for name in (name.partition(".")[0] for name in names):
                    if name != "mixq" and name not in sys.stdlib_module_names:
                        yield name, str(path.relative_to(ROOT))


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {str(canonicalize_name(name)): version for name, version in pins}


def test_packages_are_the_folders() -> None:
    assert SETUPTOOLS["packages"] == packages_on_disk()


@pytest.mark.parametrize("name", LINKS)
def test_link_is_a_link(name: str) -> None:
    link = ROOT / "mixq" / name
    if not link.is_symlink() and link.is_file():
        pytest.skip("cloned with core.symlinks=false")
    assert link.is_symlink()
    assert os.readlink(link) == LINKS[name]  # noqa: PTH115 - the text, `/` on every system


@pytest.mark.parametrize("name", LINKS)
def test_git_holds_the_link(name: str) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--stage", f"mixq/{name}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout that holds mixq")
    assert listed.stdout.startswith("120000 ")


@pytest.mark.parametrize("package", packages_on_disk())
def test_data_files_are_shipped(package: str) -> None:
    globs = SETUPTOOLS["package-data"].get(package, [])
    top = folder_of(package)
    matched = {path.relative_to(top).as_posix() for glob in globs for path in top.glob(glob)}
    assert matched == data_files(package)


def test_version_has_one_place() -> None:
    source = ast.parse((ROOT / "mixq" / "__init__.py").read_text(encoding="utf-8"))
    literals = [
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        and "__version__" in ast.unparse(node)
        and isinstance(node.value, ast.Constant)
    ]
    # A literal: setuptools then reads it without importing mixq, which would need torch.
    assert literals == [mixq.__version__]
    assert "version" not in PROJECT
    assert "version" in PROJECT["dynamic"]
    assert re.search(rf"^## \[(Unreleased|{re.escape(mixq.__version__)})\]", changelog(), re.M)


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_imports_are_declared() -> None:
    known = declared(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    owners = packages_distributions()
    missing = {
        f"{where}: {name}"
        for name, where in third_party_imports()
        if not {canonicalize_name(owner) for owner in owners.get(name, [name])} & known.keys()
        # Contract suites run under the pytest and hypothesis of whoever imports them.
        and not (name in {"pytest", "hypothesis"} and where.startswith("mixq/testing/"))
    }
    assert missing == set()


def test_dependencies_are_imported() -> None:
    used = {name for name, _ in third_party_imports()}
    assert {name for name in declared(PROJECT["dependencies"]) if name not in used} == set()


def test_constraints_satisfy_the_ranges() -> None:
    pins = constraints()
    direct = declared(
        PYPROJECT["build-system"]["requires"],
        PROJECT["dependencies"],
        *(PROJECT["optional-dependencies"][extra] for extra in TESTED_EXTRAS),
        [
            text
            for group in PYPROJECT["dependency-groups"].values()
            for text in group
            if isinstance(text, str)  # the others include a group that is here as well
        ],
    )
    assert direct.keys() <= pins.keys()
    outside = [name for name, wanted in direct.items() if pins[name] not in wanted.specifier]
    assert outside == []


def test_pre_commit_runs_the_same_ruff() -> None:
    config = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", config)) == {constraints()["ruff"]}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built offline, from a copy: the build leaves mixq.egg-info and build/ behind."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("mixq", *LINKS):
        byproducts = shutil.ignore_patterns(*BYPRODUCTS)
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=byproducts)
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*build, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    expected = {
        "/".join([*package.split("."), name])
        for package in packages_on_disk()
        for name in (
            *(path.name for path in folder_of(package).glob("*.py")),
            *data_files(package),
        )
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {"mixq/py.typed", "mixq/search/__init__.py", "mixq/profiles/intel_cpu.toml"} <= names
    assert "mixq/search/recipes/mobile_device.toml" in names
    assert any(re.fullmatch(r"mixq/demo/.+\.safetensors", name) for name in names)


@pytest.mark.slow
def test_wheel_works_outside_the_tree(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True)
    assert {path.name for path in target.iterdir()} == {
        "bin", "mixq", f"mixq-{mixq.__version__}.dist-info",
    }  # fmt: skip
    rooms = ("mixq", "mixq.search", "mixq.profiles", "mixq.demo")
    code = "".join(f"import {room}; print({room}.__file__);" for room in rooms)
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    places = answer.stdout.splitlines()
    assert places == [str(target.joinpath(*room.split("."), "__init__.py")) for room in rooms]


def test_a_folder_of_the_same_name_hides_nothing(tmp_path: Path) -> None:
    """A checkout seen from its parent, where `./mixq` looks like a package."""
    (tmp_path / "mixq").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = "import mixq, mixq.search, mixq.profiles; print(mixq.Plan.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "Plan\n", done.stderr
