"""Judge: what a job's weights are worth, measured by mixq's own code on data that it never saw."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from data import SUBJECTS
from kit import OUTPUTS, WEIGHTS, stored_bytes, write_kit
from peer_jobs import Job
from peer_rows import Row
from replay import Recorded
from safetensors.torch import load_file
from torch import nn

import mixq
from mixq.batch import call
from mixq.graph.evaluating import evaluating
from mixq.sensitivity.compare import judged
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.metrics.choice import MetricChoice
from mixq.sensitivity.metrics.resolve import resolve


class Judge:
    """Measures what jobs made of one model."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.subject = subject = SUBJECTS[name]()
        self.metric = resolve(MetricChoice(), subject.model, subject.test)
        self.kit = folder / "kits" / name
        write_kit(
            self.kit, name, subject.model, subject.batches, subject.tokenizer, subject.inputs
        )

    def row(self, job: Job, usage: Any, output: Path, against: str = "") -> Row:
        """The row of a job that has run; `against` is the tool whose bytes mixq had to keep."""
        report = json.loads((output / "job.json").read_text(encoding="utf-8"))
        model = self._network(output)
        error = self._error(model)
        headline = self.subject.headline
        return Row(
            model=self.name, tool=job.tool, version=report["version"], setting=job.setting,
            kind=job.kind, against=against, weight_bytes=report["weight_bytes"],
            error_metric=self.metric.name, error=error.error, error_se=error.error_se,
            metric=headline, value=judged(self.subject.evaluate, model)[headline],
            cpu_s=usage.ru_utime + usage.ru_stime, peak_mb=usage.ru_maxrss * 1024 / 1e6,
            note=report["note"],
        )  # fmt: skip

    def original(self) -> Row:
        """The model as it is."""
        headline = self.subject.headline
        value = judged(self.subject.evaluate, self.subject.model)[headline]
        return Row(
            self.name, "32 bits", "", "", "", "", stored_bytes(self.subject.model),
            self.metric.name, 0.0, 0.0, headline, value, 0.0, 0.0, "",
        )  # fmt: skip

    def _error(self, model: nn.Module) -> Estimate:
        """Output error on the test inputs, as a search measures it."""
        errors: list[float] = []
        for batch in self.subject.test.batches:
            with evaluating(self.subject.model):
                reference = self.metric.pick(call(self.subject.model, batch))
            with evaluating(model):
                outputs = self.metric.pick(call(model, batch))
            errors += self.metric.errors(outputs, reference, batch).tolist()
        return Estimate.of_errors(errors)

    def _network(self, output: Path) -> nn.Module:
        """The original network with a job's weights, or its recorded outputs as a network."""
        model = copy.deepcopy(self.subject.model)
        if (output / "model.mixq.safetensors").exists():
            return mixq.load(output / "model.mixq.safetensors", model)
        if (output / OUTPUTS).exists():
            return Recorded(self.subject.inputs, load_file(output / OUTPUTS)["output"])
        unknown = model.load_state_dict(load_file(output / WEIGHTS), strict=False)
        assert not unknown.unexpected_keys, unknown.unexpected_keys[:3]
        return model
