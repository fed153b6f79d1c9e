"""The packages of examples/plugins, installed as their users install them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "examples" / "plugins"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages with both packages and their entry points."""
    folder = tmp_path_factory.mktemp("site")
    sources = tmp_path_factory.mktemp("sources")
    for name in ("descent", "npz"):  # setuptools builds beside what it reads
        (sources / name).mkdir()
        for file in (PLUGINS / name).iterdir():
            if file.is_file():
                (sources / name / file.name).write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    packages = [str(sources / name) for name in ("descent", "npz")]
    subprocess.run([*pip, *options, *packages], check=True, timeout=300)
    return folder


@pytest.fixture(autouse=True)
def plugins(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The packages importable, here and in processes that a test starts."""
    monkeypatch.syspath_prepend(str(installed))
    paths = [str(installed), *sys.path]
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in paths if path))
    yield installed
    for name in ("mixq_descent", "mixq_npz", "npz_network"):
        sys.modules.pop(name, None)
