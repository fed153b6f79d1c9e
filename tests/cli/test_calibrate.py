"""mixq hardware calibrate: where the file goes, what is refused, and that nothing is left half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixq.calibrate import calibrate as room
from mixq.calibrate.calibrate import Calibrated, check_noise
from mixq.cli.main import run
from mixq.profiles import load
from mixq.profiles.place import host_path

SHIPPED = Path(__file__).resolve().parents[2] / "profiles" / "raspberry_pi_5.toml"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def pretend(monkeypatch: pytest.MonkeyPatch, noise: float = 0.01) -> None:
    """A calibration that is over at once and finds a chip that is known."""

    def calibrate(threads: int = 1, *, progress: Any) -> Calibrated:
        progress("timing kernels", 0, 1)
        check_noise(noise)
        progress("timing kernels", 1, 1)
        text = SHIPPED.read_text(encoding="utf-8")
        return Calibrated(text, load("raspberry_pi_5"), noise, 300, 15, 20.0)

    monkeypatch.setattr(room, "calibrate", calibrate)


def asked(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(run(["hardware", "calibrate", *arguments]))
    return int(stopped.value.code or 0)


def test_host_is_found_afterwards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    assert asked() == 0
    assert f"wrote {host_path()}: --hardware host" in capsys.readouterr().out
    assert load("host").runtime().searchable


def test_a_file_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    file = tmp_path / "mine.toml"
    assert asked("--output", str(file), "--format", "json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["path"], said["cases"], said["noise"]) == (str(file), 300, 0.01)
    assert load(str(file)).runtime().searchable
    assert not host_path().exists()


def test_noise_leaves_the_old_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host_path().parent.mkdir(parents=True)
    host_path().write_text("old", encoding="utf-8")
    pretend(monkeypatch, noise=0.3)
    assert asked() == 1
    assert "takes 30% more or less" in capsys.readouterr().err
    assert host_path().read_text(encoding="utf-8") == "old"
    assert [file.name for file in host_path().parent.iterdir()] == ["host.toml"]


def test_an_interruption_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(threads: int = 1, *, progress: Any) -> Calibrated:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "calibrate", interrupted)
    assert asked() == 130
    assert not host_path().parent.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "--device is 'tpu', but it takes cpu or cuda"),
        (["--threads", "100000"], "--threads is 100000, but this machine has"),
        (["--device", "cuda", "--threads", "2"], "--device is cuda, but"),
    ],
    ids=["device", "threads", "no-gpu"],
)
def test_refusals(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert asked(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
