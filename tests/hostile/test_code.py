"""Reading never runs code: nothing in mixq evaluates, unpickles or starts a shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path for room in ("mixq", "search", "profiles") for path in (ROOT / room).rglob("*.py")
)
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "input", "os.system", "os.popen", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "marshal.load",
    "marshal.loads", "shelve.open", "dill.load", "dill.loads", "joblib.load", "torch.load",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "runpy.run_path", "runpy.run_module",
    "np.load", "numpy.load", "torch.export.load", "torch.jit.load", "torch.hub.load", "sympify",
    "sympy.sympify", "torch.package.PackageImporter", "pty.spawn", "subprocess.getoutput",
}  # fmt: skip
ALLOWED = {
    ("mixq/sensitivity/parcel.py", "pickle.loads"): "docs/decisions/0019-workers.md",
    ("mixq/sources/tensors.py", "np.load"): "allow_pickle=False stands beside it",
}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call by the name that is written there."""
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def faults(tree: ast.AST) -> list[tuple[str, int]]:
    """What a source does that could run what a file says."""
    found = []
    for name, call in calls(tree):
        words = {one.arg: ast.unparse(one.value) for one in call.keywords}
        if name in FORBIDDEN:
            found.append((name, call.lineno))
        if words.get("shell", "False") != "False" or words.get("allow_pickle", "False") != "False":
            found.append((f"{name} with a shell or pickle", call.lineno))
        if words.get("weights_only", "True") != "True":
            found.append((f"{name} with weights_only=False", call.lineno))
        if words.get("trust_remote_code", "False") == "True":
            found.append((f"{name} with trust_remote_code=True", call.lineno))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "shelve"):
            found.append((f"from {node.module}", node.lineno))
    return found


def test_no_source_runs_what_it_reads() -> None:
    assert len(FILES) > 300
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in FILES
        for name, _ in faults(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set(ALLOWED)


def test_numpy_is_told_not_to_unpickle() -> None:
    tree = ast.parse((ROOT / "mixq" / "sources" / "tensors.py").read_text(encoding="utf-8"))
    loads = [call for name, call in calls(tree) if name == "np.load"]
    assert len(loads) == 1
    assert any(word.arg == "allow_pickle" for word in loads[0].keywords)


def test_transformers_is_always_told_about_trust() -> None:
    """Left out, it asks at the terminal whether to run the code that a folder brings along."""
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, call in calls(tree):
            if name.endswith(".from_pretrained"):
                words = {one.arg for one in call.keywords}
                assert words & {None, "trust_remote_code"}, f"{path}:{call.lineno}"


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)", "exec(text)", "os.system(x)", "pickle.loads(b)", "torch.load(p)",
        "np.load(p, allow_pickle=True)", "subprocess.run(x, shell=True)",
        "from pickle import loads",
        "A.from_pretrained(p, trust_remote_code=True)", "torch.load(p, weights_only=False)",
        "yaml.load(x)", "run(x, shell=wanted)",
    ],
)  # fmt: skip
def test_the_scan_sees(source: str) -> None:
    assert faults(ast.parse(source))
