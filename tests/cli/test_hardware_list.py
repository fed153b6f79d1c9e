"""mixq hardware list and show: what --all adds, and one runtime of many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixq.profiles import available


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a calibrated profile would lie, and no file of the tester's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "mixq"


def test_a_calibrated_machine_is_listed(cli: Callable[..., Any], data_folder: Path) -> None:
    text = (Path(__file__).parents[2] / "profiles" / "intel_cpu.toml").read_text(encoding="utf-8")
    data_folder.mkdir(parents=True)
    host = data_folder / "host.toml"
    host.write_text(text.replace('name = "intel_cpu"', 'name = "host"', 1), encoding="utf-8")
    found = cli("hardware", "list", "--format", "json").json["profiles"]
    assert [one["name"] for one in found] == [*available(), "host"]
    host.write_text("name = 1", encoding="utf-8")
    broken = cli("hardware", "list")
    assert broken.status == 0
    assert "note: profile" in broken.err
    assert "intel_cpu" in broken.out


def test_all_adds_the_published_chips(cli: Callable[..., Any]) -> None:
    def names(*more: str) -> list[str]:
        return [
            one["name"]
            for one in cli("hardware", "list", *more, "--format", "json").json["profiles"]
        ]

    assert names() == list(available())
    assert names("--all") == list(available(published=True))
    assert "rk3588" in cli("hardware", "list", "--all").out
    assert "rk3588" not in cli("hardware", "list").out


def test_show_one_runtime(cli: Callable[..., Any]) -> None:
    whole = cli("hardware", "show", "nvidia_a100", "--format", "json").json["runtimes"]
    one = cli(
        "hardware", "show", "nvidia_a100", "--runtime", "onnxruntime", "--format", "json"
    ).json
    assert one["runtimes"] == {"onnxruntime": whole["onnxruntime"]}
    shown = cli("hardware", "show", "nvidia_a100")
    places = [shown.out.index(f"{name} (") for name in whole]
    assert min(places) == shown.out.index("onnxruntime (searched and predicted)")
    wrong = cli("hardware", "show", "nvidia_a100", "--runtime", "tvm")
    assert wrong.status == 1
    assert "runtime 'tvm' is not in profile 'nvidia_a100'; choose one of" in wrong.error


def test_an_error_of_a_users_file_names_its_line(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'schema_version = 2\nname = "mine"\nextends = "intel_cpu"\ndescription = "mine"\n'
        '[chip]\ncores = { value = -4, unit = "cores", source = "lscpu" }\n',
        encoding="utf-8",
    )
    answer = cli("hardware", "show", str(path))
    assert answer.status == 1
    assert "mine.toml': line 6: chip.cores.value: Input should be greater than 0" in answer.error
    assert len(answer.error.strip().splitlines()) == 1
