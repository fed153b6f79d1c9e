"""Tasks: found, refused, loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mixq.errors import MissingExtraError, MixqError, SourceError, UsageError
from mixq.harness.library import CODE_METRICS, quiet, require
from mixq.harness.settings import Settings
from mixq.harness.tasks import find_tasks, load_tasks

from .conftest import Files, mean, write_task

RIGHTS = "with your rights"


def chosen(folder: Path, *names: str, allow_code: bool = False) -> Any:
    return load_tasks(find_tasks(names, [folder], allow_code=allow_code))


def simple(folder: Path, name: str, **settings: Any) -> None:
    write_task(
        folder, name, [{"q": "a", "a": "b"}],
        **{
            "output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
            "metric_list": [mean("exact_match")], **settings,
        },
    )  # fmt: skip


def test_groups_and_patterns_mean_their_members(files: Files) -> None:
    group = chosen(files.tasks, "tiny")
    assert list(group.leaves) == ["tiny_choice", "tiny_text", "tiny_write"]
    assert [root.name for root in group.roots] == ["tiny"]
    assert chosen(files.tasks, "tiny_[ct]*").names == ("tiny_choice", "tiny_text")


def test_the_harness_has_its_own_and_names_what_is_near(files: Files) -> None:
    # Once: its 14,000 names take seconds to read.
    with pytest.raises(UsageError, match="did you mean hellaswag, ") as refusal:
        find_tasks(["mmlu_abstract_algebra", "hellaswagg"], [files.tasks])
    assert "'hellaswagg'" in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"unsafe_code": True}, RIGHTS),
        ({"dataset_kwargs": {"trust_remote_code": True}}, "trust_remote_code"),
    ],
    ids=["writes-code", "brings-code"],
)
@pytest.mark.parametrize("through", ["name", "group", "tag", "override"])
def test_code_is_run_only_when_asked(
    tmp_path: Path, settings: dict[str, Any], why: str, through: str
) -> None:
    own = {} if through == "override" else settings
    simple(tmp_path, "one", tag="tagged", **own)
    member: object = {"task": "one", **settings} if through == "override" else "one"
    nested = {"group": "inner", "task": [member]}
    (tmp_path / "inner.yaml").write_text(json.dumps(nested), encoding="utf-8")
    outer = {"group": "outer", "task": ["inner"]}
    (tmp_path / "outer.yaml").write_text(json.dumps(outer), encoding="utf-8")
    name = {"name": "one", "tag": "tagged"}.get(through, "outer")
    with pytest.raises(UsageError, match="pass --allow-code-execution") as refusal:
        find_tasks([name], [tmp_path])
    assert why in str(refusal.value)
    assert find_tasks([name], [tmp_path], allow_code=True).allow_code


def test_code_may_run_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CODE_METRICS, raising=False)
    with quiet():
        assert CODE_METRICS not in os.environ
    with quiet(code_allowed=True):
        assert os.environ[CODE_METRICS] == "1"
    assert CODE_METRICS not in os.environ


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset_kwargs": {"data_files": {"test": "/nowhere/data.jsonl"}}},
        {"dataset_path": "nobody/nothing", "dataset_kwargs": {}},
        {"test_split": "absent"},
        {"metric_list": [{"metric": "no such metric"}]},
        {"doc_to_text": "{{ unclosed"},
    ],
    ids=["no-file", "no-network", "no-split", "no-metric", "no-template"],
)
def test_what_cannot_be_loaded_is_said_in_one_line(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    simple(tmp_path, "broken", **settings)
    with pytest.raises(SourceError, match="task broken cannot be loaded: ") as refusal:
        chosen(tmp_path, "broken")
    assert "\n" not in str(refusal.value)


def test_a_folder_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        find_tasks(["x"], [tmp_path / "absent"])


@pytest.mark.parametrize("missing", ["lm_eval", "accelerate"])
def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mixq\[lm-eval\]'"):
        require()


@pytest.mark.parametrize(
    ("option", "value"),
    [("limit", 0), ("num_fewshot", -1), ("batch_size", 0), ("seed", -1)],
    ids=str,
)
def test_numbers_have_bounds(option: str, value: int) -> None:
    with pytest.raises(MixqError, match=f"--{option.replace('_', '-')} is {value}"):
        Settings(**{option: value})
