"""What a person at a terminal meets: loudness, bars, colours, Ctrl-C, help and completion."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mixq import __version__
from mixq.cli.app import app
from mixq.cli.command import StoppedError, command, remember, resumable, this_command
from mixq.cli.examples import all_lines
from mixq.cli.main import run

START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from mixq.cli import main
main()
"""
MIXQ = [sys.executable, "-c", START]
QUICK = ("--hardware", "intel_cpu", "--target-compression", "5", "--trials", "1", "--rounds", "0")


class Screen:
    """A command in a pseudo-terminal of some width."""

    def __init__(
        self,
        arguments: list[str],
        *,
        width: int = 100,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            [*MIXQ, *arguments],
            env={**kept, "TERM": "xterm-256color", **(environment or {})},
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            # So that Ctrl-C, typed, is a signal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(child)
        self.raw = ""

    def read(self, until: str | None = None, timeout_s: float = 60) -> str:
        """What is written until some words come, or the command ends."""
        deadline = time.monotonic() + timeout_s
        while until is None or until not in self.raw:
            assert time.monotonic() < deadline, self.raw
            if not select.select([self.parent], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(self.parent, 65536)
            except OSError:  # Linux: the other side has closed
                break
            if not chunk:
                break
            self.raw += chunk.decode(errors="replace")
        return self.raw

    def end(self) -> int:
        """The exit status, once all is read."""
        self.read()
        os.close(self.parent)
        return self.process.wait(timeout=60)

    @property
    def text(self) -> str:
        """What was written, without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw).replace("\r\n", "\n")


def on_screen(*arguments: str, **environment: str) -> Screen:
    screen = Screen(list(arguments), environment=environment)
    assert screen.end() == 0, screen.raw
    return screen


# Loudness.


def test_nobody_watches_so_nothing_moves(search: Callable[..., Any]) -> None:
    """In a pipe or a log there are notes, and no progress."""
    answer = search(*QUICK)
    assert answer.status == 0
    assert answer.err.splitlines()
    assert all(line.startswith("note: ") for line in answer.err.splitlines())


@pytest.mark.parametrize("name", ["--quiet", "-q"])
def test_quiet(search: Callable[..., Any], name: str) -> None:
    answer = search(*QUICK, name)
    assert (answer.status, answer.err) == (0, "")
    assert "this plan" in answer.out


def test_quiet_still_says_errors(cli: Callable[..., Any]) -> None:
    answer = cli("--quiet", "plan", "show", "nowhere.json")
    assert (answer.status, answer.out) == (1, "")
    assert "nowhere.json is not a file" in answer.error


STAGE = re.compile(r"\[ *\d+\.\d\d s\] stage: measuring plans: (\d+) of \1 in \d+\.\d\d s")
SAID = {
    "layout": r"search: traced 3 weight units, [\d,]+ parameters, [\d,]+ MACs at batch 1",
    "candidates": r"search: \d+ candidate formats in all on intel_cpu with onnxruntime",
    "sensitive": r"search: among the most sensitive: \d\.weight, up to ",
    "chosen": r"search: chose .* of \d+ measured plans; its added error is within",
    "kernel": r"search: 0\.weight in w\S+: .*, \d+\.\d us \(\S",
}


def test_verbose_says_what_is_done_and_why(search: Callable[..., Any]) -> None:
    answer = search(*QUICK, "--verbose")
    assert answer.status == 0
    assert STAGE.search(answer.err), answer.err
    for name, pattern in SAID.items():
        assert re.search(pattern, answer.err), name
    assert answer.out == search(*QUICK, "-q", "--output", "again").out.replace("again", "run")


PLACES = {
    "before": ("-v", "plan", "show"),
    "between": ("plan", "-v", "show"),
    "behind": ("plan", "show", "-v"),
}


@pytest.mark.parametrize("arguments", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("contrary", [False, True], ids=["alone", "with-quiet"])
def test_before_and_behind_the_name(
    cli: Callable[..., Any], demo_run: Path, arguments: tuple[str, ...], contrary: bool
) -> None:
    more = ("--quiet",) if contrary else ()
    answer = cli(*arguments, *more, demo_run / "plan.json")
    if contrary:
        assert answer.status == 2
        assert "--verbose and --quiet are contrary" in answer.error
    else:
        assert answer.status == 0
    # What one command line asks for is forgotten by the next one in the same process.
    assert cli("plan", "show", demo_run / "plan.json").err == ""


def test_a_refusal_says_where_it_comes_from_with_verbose(cli: Callable[..., Any]) -> None:
    answer = cli("-v", "plan", "show", "nowhere.json")
    assert answer.status == 1
    assert re.search(r"refused: PlanError in mixq/\S+\.py:\d+", answer.err)
    assert answer.err.splitlines()[-1].startswith("error: ")


def test_loudness_is_no_part_of_what_a_run_is_asked(search: Callable[..., Any]) -> None:
    assert search(*QUICK, "--verbose").status == 0
    asked = json.loads(Path("run/run.json").read_text(encoding="utf-8"))["request"]
    assert not {"verbose", "quiet"} & set(asked)
    assert search("--resume", "-q").err == ""


# Terminals.


def test_bars_on_a_terminal_and_the_same_plan(search: Callable[..., Any]) -> None:
    assert search(*QUICK, output="calm").status == 0
    screen = on_screen("search", *QUICK, "--model", "tiny.py:load", "--output", "run")
    assert "measuring plans" in screen.text
    assert "\x1b[?25l" in screen.raw  # the cursor is hidden while bars move
    assert screen.raw.rindex("\x1b[?25h") > screen.raw.rindex("\x1b[?25l")
    for name in ("plan.json", "plan.weights.safetensors"):
        assert Path("run", name).read_bytes() == Path("calm", name).read_bytes()


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m|\x1b\[38;")
TERMINALS: dict[str, tuple[dict[str, str], bool]] = {
    "colours": ({}, True),
    "NO_COLOR": ({"NO_COLOR": "1"}, False),
    "both": ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    "dumb": ({"TERM": "dumb"}, False),
}


@pytest.mark.parametrize(("environment", "coloured"), TERMINALS.values(), ids=TERMINALS)
def test_colours_of_a_terminal(
    demo_run: Path, environment: dict[str, str], coloured: bool
) -> None:
    for arguments in (["plan", "show", str(demo_run / "plan.json")], ["plan", "--help"]):
        screen = on_screen(*arguments, **environment)
        assert bool(COLOUR.search(screen.raw)) == coloured, screen.raw


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_bars_without_colours(cli: Callable[..., Any], name: str) -> None:
    value = {"NO_COLOR": "1", "TERM": "dumb"}[name]
    screen = on_screen(
        "analyze", "--model", "tiny.py:load", "--bits", "8", "--samples", "2", **{name: value}
    )
    assert not COLOUR.search(screen.raw)
    assert ("\x1b" in screen.raw) == (name == "NO_COLOR")


def test_forced_colours_in_a_pipe(demo_run: Path, cli: Callable[..., Any]) -> None:
    """Colours, but no narrow tables, and no bars: a pipe has no cursor."""
    wide = cli("plan", "show", demo_run / "plan.json").out
    done = subprocess.run(
        [*MIXQ, "plan", "show", str(demo_run / "plan.json")],
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert COLOUR.search(done.stdout)
    assert re.sub(r"\x1b\[[0-9;]*m", "", done.stdout) == wide
    assert done.stderr == ""


# Ctrl-C.


def test_ctrl_c_at_a_terminal_names_the_command(cli: Callable[..., Any]) -> None:
    """The line that it gives goes on from the folder, typed as it stands."""
    Path("slow.py").write_text(
        "import time\nfrom tiny import net, inputs\n\ndef load():\n    model = net()\n"
        "    model.register_forward_hook(lambda *_: time.sleep(0.03))\n"
        "    return model, inputs()\n",
        encoding="utf-8",
    )
    arguments = ["search", *QUICK, "--model", "slow.py:load", "--output", "a folder"]
    screen = Screen([*arguments, "--sensitivity", "measured"], width=400)
    try:
        screen.read("measuring sensitivities")
        time.sleep(0.3)
        os.write(screen.parent, b"\x03")
        assert screen.end() == 130
    finally:
        screen.process.kill()
    said = screen.text.strip().splitlines()[-1]
    start = "error: interrupted; what was measured is kept in a folder, go on with: mixq "
    assert said.startswith(start)
    again = shlex.split(said.removeprefix(start))
    assert again == [*arguments, "--sensitivity", "measured"]
    assert Path("a folder/run.json").exists()
    assert "\x1b[?25h" in screen.raw  # the cursor is there again
    assert "Traceback" not in screen.raw


def test_ctrl_c_where_nothing_is_kept(
    cli: Callable[..., Any], demo_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mixq.plan.Plan.load", stop)
    answer = cli("plan", "show", "a plan.json")
    assert answer.status == 130
    assert answer.error == (
        "error: interrupted, and nothing is left behind; from the start again with: "
        "mixq plan show 'a plan.json'"
    )


def test_a_password_is_not_repeated() -> None:
    remember(["search", "--storage", "postgresql://me:secret@host/db"])
    assert this_command() == "mixq search --storage postgresql://me:***@host/db"

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(StoppedError, match="from the start again"):
        command(stop)()
    with pytest.raises(StoppedError, match="kept in here, go on with"), resumable(Path("here")):
        stop()


# Help.


def commands() -> dict[str, Any]:
    """Every command and group by its name."""
    import typer.main

    found: dict[str, Any] = {}
    pending: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while pending:
        path, node = pending.pop()
        found[" ".join(path)] = node
        pending += [((*path, name), sub) for name, sub in getattr(node, "commands", {}).items()]
    return found


COMMANDS = commands()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", COMMANDS, ids=lambda name: name or "mixq")
def test_help_fits_and_teaches(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    answer = cli(*name.split(), "--help")
    assert answer.status == 0
    assert max(map(len, answer.out.splitlines())) <= width
    assert "Example" in answer.out
    assert f"mixq {name}".strip() in answer.out.partition("Example")[2]
    assert "--verbose" in answer.out
    typers_own = ("--help", "--install-completion", "--show-completion")
    said = [line for line in answer.out.splitlines() if not any(own in line for own in typers_own)]
    assert not [line for line in said if "<bool>" in line or "<int range>" in line or "…" in line]


@pytest.mark.parametrize("line", all_lines())
def test_examples_in_help_are_commands(line: str) -> None:
    """Every word that looks like a command or an option is one."""
    words = shlex.split(line)
    if words[0] == "cp":
        return
    name = " ".join(words[1:3]) if " ".join(words[1:3]) in COMMANDS else words[1]
    options = {option for param in COMMANDS[name].params for option in param.opts}
    assert {word for word in words if word.startswith("-")} <= options


# Versions and completion.


def test_version_with_what_a_report_of_a_bug_needs(cli: Callable[..., Any]) -> None:
    for arguments in (("--version", "--verbose"), ("-v", "--version")):
        lines = cli(*arguments).out.splitlines()
        assert lines[0] == f"mixq {__version__}"
        assert lines[1].startswith("Python 3.")
        assert any(line.startswith("torch 2.") for line in lines)


TYPED = {
    "commands": ("mixq sea", ["search"]),
    "plan": ("mixq plan di", ["diff"]),
    "hardware": ("mixq search --hardware nvidia_h", ["nvidia_h100", "nvidia_h200"]),
    "hardware-show": ("mixq hardware show raspberry_pi_4", ["raspberry_pi_4"]),
    "recipe": ("mixq search --recipe cpu", ["cpu_server"]),
    "runtime": ("mixq export plan.json --runtime onnx", ["onnxruntime", "onnxruntime-genai"]),
    "bench-runtime": ("mixq bench plan.json --runtime openv", ["openvino"]),
    "metric": ("mixq evaluate plan.json --metric c", ["cosine"]),
    "search-metric": ("mixq search --metric k", ["kl"]),
    "bits": ("mixq search --bits 8,4,", ["8,4,32", "8,4,16", "8,4,2"]),
    "equalize": ("mixq search --equalize c", ["cross-layer"]),
    "sampler": ("mixq search --sampler n", ["nsga2"]),
    "options": ("mixq search --max-m", ["--max-memory-mb", "--max-metric-drop"]),
    "own-file": ("mixq search --hardware chips/", ["chips/mine.toml"]),
}


@pytest.mark.parametrize(("typed", "offered"), TYPED.values(), ids=TYPED)
@pytest.mark.usefixtures("cli")
def test_completion(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    offered: list[str],
) -> None:
    """What bash asks and is answered; zsh and fish ask the same with other variables."""
    Path("chips").mkdir()
    Path("chips/mine.toml").touch()
    Path("chips/notes.txt").touch()
    words = typed.split(" ")
    monkeypatch.setenv("_MIXQ_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit) as done:
        run([])
    printed = capsys.readouterr()
    assert (done.value.code, printed.out.split(), printed.err) == (0, offered, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    """They are shown and installed without a question, and a shell that is here reads them."""
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    shown, installed = (
        subprocess.run(
            [*MIXQ, option, shell], env=environment, capture_output=True, text=True, timeout=60
        )
        for option in ("--show-completion", "--install-completion")
    )
    assert shown.returncode == installed.returncode == 0, installed.stderr
    assert "_MIXQ_COMPLETE" in shown.stdout
    assert f"{shell} completion installed in {tmp_path}" in installed.stdout
    if shutil.which(shell):
        (tmp_path / "script").write_text(shown.stdout, encoding="utf-8")
        subprocess.run([shell, "-n", tmp_path / "script"], check=True, timeout=60)


def test_bash_completes_a_chip(tmp_path: Path) -> None:
    """The whole way: bash runs the script's function, and that runs mixq."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    mixq = tmp_path / "mixq"
    mixq.write_text(f"#!{sys.executable}\n{START}", encoding="utf-8")
    mixq.chmod(0o755)
    script = (
        'eval "$(_MIXQ_COMPLETE=source_bash mixq)"\n'
        "COMP_WORDS=(mixq search --hardware graviton) COMP_CWORD=3\n"
        '_mixq_completion mixq graviton --hardware\necho "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["graviton3"], done.stderr


def test_a_signal_is_a_signal_in_this_process(cli: Callable[..., Any]) -> None:
    """Ctrl-C while options are read, or before: no traceback either."""

    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["mixq.cli.main"], "app", stop)
            assert run(["plan"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
