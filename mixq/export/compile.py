"""CompiledModule: a plan as a PyTorch module that computes in a fast runtime."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.errors import UsageError
from mixq.export.module import RuntimeModule, call_batch
from mixq.export.registry import runtime as runtime_named
from mixq.export.runtime import Session
from mixq.export.source import Source
from mixq.export.verify import check_bytes, verified
from mixq.plan import Plan
from mixq.workshop import scratch


class CompiledModule(nn.Module):
    """A quantized model behind the interface of the original; see `mixq.Plan.compile`.

    It is exported, loaded and compared with the plan when it is first called, unless `calibration`
    was given. Later calls may have other batch sizes and, for token ids, other lengths.
    """

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        calibration: Calibration | None,
        *,
        runtime: str,
        threads: int,
        **options: Any,
    ) -> None:
        super().__init__()
        if threads < 1:
            raise UsageError(f"threads is {threads}, but a session has at least one")
        # In a list, so that the original's parameters are not this module's.
        self._original: list[nn.Module] = [model]
        self._plan, self._threads = plan, threads
        self._runtime = runtime_named(runtime, **options)
        self._module: RuntimeModule | None = None
        self._names = _positional(model)
        self.difference: float | None = None
        if calibration is not None:
            self._compile(calibration)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for these inputs.

        Raises:
            ExportError: at the first call, if the runtime cannot take the plan or disagrees.
        """
        if self._module is None:
            self._compile(Calibration.of(call_batch(args, kwargs, self._names)))
        assert self._module is not None
        return self._module(*args, **kwargs)

    def _compile(self, calibration: Calibration) -> None:
        source = Source.of(self._original[0], self._plan, calibration)
        self._runtime.check(source)
        with scratch("mixq-compile") as folder:
            path = folder / f"model{self._runtime.suffix}"
            written = self._runtime.write(source, path)
            check_bytes(written)
            session: Session = self._runtime.open(path, threads=self._threads)
            self.difference, _ = verified(source, session, written, self._runtime.name)
        self._module = RuntimeModule(session, _output_of(source), self._names)


def _output_of(source: Source) -> Any:
    """One output of the original, whose structure the module gives back."""
    with torch.no_grad():
        return call(source.restored, source.calibration.take(1).batches[0])


def _positional(model: nn.Module) -> tuple[str, ...]:
    """Names of what a model's forward takes by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return tuple(item.name for item in parameters if item.kind in kinds)
