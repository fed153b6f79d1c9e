"""Pool: tasks divided over processes that share one content, such as a model and its data.

joblib starts them; a backend that is configured around the call (`joblib.parallel_config`, such as
Ray's for many machines) takes the place of its own.
"""

from __future__ import annotations

import itertools
import os
import signal
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, TypeVar

import joblib

from mixq.errors import ModelError, WorkerError
from mixq.files import one_line
from mixq.sensitivity.parcel import packed
from mixq.sensitivity.watch import end_with
from mixq.sensitivity.worker import Job, Settings

TASKS_PER_WORKER: Final = 4
"""At least, where samples allow it, so that none waits long for the last."""
IDLE_S: Final = 60
"""After which a worker that has nothing to do gives its memory back."""
_Pool: Any = joblib.Parallel  # whose types are not all that it takes
Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


class Pool:
    """Processes that know one content; it is packed once, and unpacked once by each of them.

    Args:
        workers: how many.
        content: what their tasks have in common.
    """

    def __init__(self, workers: int, content: object) -> None:
        self.workers = workers
        self._content = content
        self._packed: dict[bool, Job] = {}

    def outcomes(
        self, work: Callable[[Job, Task], Outcome], tasks: Sequence[Task]
    ) -> Generator[Outcome]:
        """Outcomes of tasks in the order in which they are finished.

        Raises:
            ModelError: if the content cannot be sent to another process.
            WorkerError: if a worker has died.
        """
        if not tasks:
            return
        parallel, streams = _parallel(self.workers)
        ray = _ray(parallel)
        job = self._job(ray)
        broken = (BrokenProcessPool, *(() if ray is None else (ray.exceptions.RayError,)))
        calls = (joblib.delayed(work)(job, task) for task in tasks)
        try:
            if streams:
                yield from _streamed(parallel, calls)
                return
            with parallel:  # such a backend answers at the end of a call only: calls are short
                while chunk := list(itertools.islice(calls, TASKS_PER_WORKER * self.workers)):
                    yield from parallel(chunk)
        except broken as error:
            raise WorkerError(
                "a worker process has died, as happens where memory runs out: "
                f"{one_line(str(error).partition('.')[0], 100)}; nothing that was measured is "
                "lost, run it again with fewer --workers"
            ) from error

    def _job(self, ray: Any) -> Job:
        far = ray is not None
        if far not in self._packed:
            parcel: Any = _packed(self._content, far=far)
            parcel = ray.put(parcel) if far else parcel
            self._packed[far] = Job(key=uuid.uuid4().hex, parcel=parcel, settings=Settings())
        return self._packed[far]


def _parallel(workers: int) -> tuple[Any, bool]:
    """The pool of joblib in the configured backend, and whether it gives results as they come."""
    backend = _Pool(n_jobs=workers)._backend
    if getattr(backend, "supports_sharedmem", False) and backend.effective_n_jobs(workers) > 1:
        raise WorkerError(
            f"joblib is configured for {type(backend).__name__}, whose workers would change the "
            "weights of one model at once; configure a backend of processes"
        )
    if not backend.supports_return_generator:
        return _Pool(n_jobs=workers, batch_size=1), False
    own = {}
    if type(backend).__name__ == "LokyBackend":  # others start and end workers their own way
        own = {
            "idle_worker_timeout": IDLE_S,
            "initializer": end_with,
            "initargs": (os.getpid(),),
        }
    streamed = "generator_unordered"
    return _Pool(n_jobs=workers, batch_size=1, return_as=streamed, **own), True


def _streamed(parallel: Any, calls: Iterable[Any]) -> Iterator[Any]:
    # What starts while Ctrl-C is held back never sees it: this process ends its workers itself.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        results = parallel(calls)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield from results
    finally:
        with warnings.catch_warnings():  # that tasks are given up is known
            warnings.simplefilter("ignore")
            results.close()


def _ray(parallel: Any) -> Any:
    """The module `ray`, if that is the backend."""
    if not type(parallel._backend).__module__.startswith("ray."):
        return None
    import ray

    return ray


def _packed(content: object, *, far: bool) -> Any:
    try:
        return packed(content, far=far)
    except Exception as error:  # what a user's model holds may refuse in any way to be pickled
        raise ModelError(
            f"the model cannot be sent to another process: {type(error).__name__}: "
            f"{one_line(error, 200)}; use --workers 1 (workers=1)"
        ) from error
