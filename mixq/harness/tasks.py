"""Tasks: which ones names stand for, what they would run, and their data."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from mixq.errors import MixqError, SourceError, UsageError
from mixq.files import one_line
from mixq.harness.library import quiet, require

NEAR: Final = 4
"""Names that a refusal offers."""
OPTION: Final = "--allow-code-execution"


@dataclass(frozen=True, eq=False)
class Tasks:
    """Tasks that are loaded, with their data.

    Attributes:
        names: as they were asked for, patterns resolved.
        roots: its groups and tasks, to be evaluated.
        leaves: every single task by name.
        groups: every group by name.
        allow_code: whether they may run what the model writes.
    """

    names: tuple[str, ...]
    roots: tuple[Any, ...]
    leaves: Mapping[str, Any]
    groups: Mapping[str, Any]
    allow_code: bool


@dataclass(frozen=True, eq=False)
class Selection:
    """Tasks that were found, and whose data are not loaded yet.

    Attributes:
        names: as they were asked for, patterns resolved.
        manager: the harness's index that they come from.
        allow_code: whether they may run code that the model writes, or that their data bring.
    """

    names: tuple[str, ...]
    manager: Any
    allow_code: bool


def find_tasks(
    names: Sequence[str], include: Sequence[Path] = (), *, allow_code: bool = False
) -> Selection:
    """Find tasks by name or pattern.

    Args:
        names: of tasks, groups or tags of the harness, or patterns such as `mmlu_*`.
        include: folders with definitions of tasks, which come first.
        allow_code: whether tasks may run code that the model writes, or that their data bring.

    Raises:
        UsageError: if there is no such task, or one would run code and may not.
        MissingExtraError: without the harness.
    """
    require()
    for folder in include:
        if not folder.is_dir():
            raise UsageError(
                f"--include-path {one_line(folder)} is no folder; name one with .yaml files of "
                "tasks"
            )
    with quiet():
        manager, found, leaves = _find(tuple(names), tuple(include))
    for name, settings in leaves.items():
        why = _code(settings)
        if why is not None and not allow_code:
            raise UsageError(f"task {one_line(name, 80)} {why}; if you want that, pass {OPTION}")
    return Selection(found, manager, allow_code)


def load_tasks(selection: Selection) -> Tasks:
    """Load the data of tasks.

    Raises:
        SourceError: if a definition cannot be read, or the data cannot be had.
        UsageError: if a task turns out to run code, and may not.
    """
    roots: list[Any] = []
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    with quiet(code_allowed=selection.allow_code):
        for name in selection.names:
            loaded = _load(selection.manager, name)
            tasks |= loaded["tasks"]
            groups |= loaded["groups"]
            group = loaded["groups"].get(name)
            roots += [group] if group is not None else loaded["tasks"].values()
    for name, task in tasks.items():  # whatever it was written as
        if getattr(task, "UNSAFE_CODE", False) and not selection.allow_code:
            raise UsageError(f"task {one_line(name, 80)} {MODEL_CODE}; pass {OPTION}")
    return Tasks(selection.names, tuple(roots), tasks, groups, selection.allow_code)


MODEL_CODE: Final = (
    "runs the code that the model writes, on this machine and with your rights, to see whether it "
    "works"
)
DATA_CODE: Final = "asks to run Python code that comes with its data (trust_remote_code)"


def _code(settings: Mapping[str, Any]) -> str | None:
    """What code a task would run, in words; None if none."""
    if settings.get("unsafe_code", False) is not False:
        return MODEL_CODE
    options = settings.get("dataset_kwargs")
    if isinstance(options, Mapping) and options.get("trust_remote_code"):
        return DATA_CODE
    return None


def _find(
    names: tuple[str, ...], include: tuple[Path, ...]
) -> tuple[Any, tuple[str, ...], dict[str, Mapping[str, Any]]]:
    """The index, the names in it, and the settings of the single tasks that they mean.

    The harness's own 14,000 names take seconds to read, so they are read only where a name is in
    none of the user's folders.
    """
    from lm_eval.tasks import TaskManager

    folders: list[str | Path] = [*include]
    for defaults in (False, True):
        if not folders and not defaults:
            continue
        manager = TaskManager(include_path=folders, include_defaults=defaults)
        index: Mapping[str, Any] = manager.task_index
        try:
            found = _matching(names, index)
            leaves = {
                leaf: settings for name in found for leaf, settings in _leaves(name, index, ())
            }
        except UsageError:
            if defaults:
                raise
            continue
        return manager, found, leaves
    raise AssertionError("the loop returns or raises")


def _matching(names: tuple[str, ...], index: Mapping[str, Any]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in names:
        if name in index:
            found[name] = None
            continue
        matches = [known for known in index if fnmatchcase(known, name)]
        if not matches:
            raise _unknown(name, index)
        found |= dict.fromkeys(sorted(matches))
    return tuple(found)


def _unknown(name: str, index: Mapping[str, Any]) -> UsageError:
    near = difflib.get_close_matches(name, index, NEAR, 0.6)
    offer = f"did you mean {', '.join(near)}?" if near else "see: lm-eval ls tasks"
    return UsageError(f"there is no task {one_line(name, 80)!r}; {offer}")


def _leaves(
    name: str, index: Mapping[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Single tasks below a name, with their settings as they are written."""
    if name not in index or name in above:
        raise _unknown(name, index)
    entry = index[name]
    settings = dict(entry.cfg or {})
    if entry.kind.name == "TAG":
        for member in sorted(entry.tags):
            yield from _leaves(member, index, (*above, name))
    elif entry.kind.name == "GROUP":
        members = settings.get("task")
        for member in members if isinstance(members, list) else ():
            yield from _members(member, index, (*above, name))
    else:
        yield name, settings


def _members(
    member: object, index: Mapping[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Those below one entry of a group: a name, or a mapping that may change settings."""
    if isinstance(member, str):
        yield from _leaves(member, index, above)
        return
    changes = dict(member) if isinstance(member, Mapping) else {}
    inner = changes.get("group", changes.get("task"))
    if isinstance(inner, str) and inner in index:
        for leaf, settings in _leaves(inner, index, above):
            yield leaf, {**settings, **changes}
    elif isinstance(inner, str) and isinstance(changes.get("task"), list):
        for item in changes["task"]:
            yield from _members(item, index, (*above, inner))
    else:
        yield str(inner), changes


def _load(manager: Any, name: str) -> Mapping[str, Any]:
    """What the harness loads under a name.

    Raises:
        SourceError: if it cannot.
    """
    import jinja2
    import yaml
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    # What datasets, the hub's client, YAML, templates and the functions of tasks raise when a file
    # is not there, not reachable or not what they expect.
    faults: tuple[type[Exception], ...] = (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError,
        DatasetsError, yaml.YAMLError, jinja2.TemplateError, AssertionError,
        # Of whatever client the hub uses; its name changes from version to version.
        *(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)),
    )  # fmt: skip
    try:
        loaded: dict[str, Any] = manager.load([name])
    except MixqError:
        raise
    except faults as error:
        reason = one_line(error, 200) or type(error).__name__
        raise SourceError(
            f"task {one_line(name, 80)} cannot be loaded: {reason}; its data come from the "
            "Hugging Face hub unless its definition names files: check the network and "
            "HF_HUB_OFFLINE, or fetch them once where there is a network and copy HF_HOME"
        ) from error
    return {"tasks": dict(loaded["tasks"]), "groups": dict(loaded.get("groups") or {})}
