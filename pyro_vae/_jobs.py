"""Many fits of a kind: one after another, or by joblib in other processes and on clusters.

What joblib is configured to do is done (``joblib.parallel_config``). Each fit has its seed by its
number, and as many threads wherever it runs: results are the same for any number of jobs.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cloudpickle
import joblib
import numpy as np
import torch

from pyro_vae._errors import expected, positive_integer

__all__ = ["Parcel", "by", "each", "threads"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_LOCAL = ("sequential", "threading", "multiprocessing", "loky")  # joblib's own, of this machine
_one_at_a_time = threading.RLock()  # of the threads of a worker, as Pyro has one parameter store
_KINDS = (ValueError, FloatingPointError, OSError, MemoryError)  # of which one line is said
_PAUSE = 0.5  # seconds between two looks at whether there is anybody to work for
_watched: list[threading.Thread] = []  # by a worker of this machine, once
_received: dict[str, Callable[[Any], Any]] = {}  # by a worker, the last function alone


def threads() -> int:
    """Returns how many threads each fit has: ``OMP_NUM_THREADS``, and one where that is not set.

    Sums depend in their last bits on how many threads share them.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else 1


@contextmanager
def by(jobs: int) -> Iterator[None]:
    """Inside it, many fits are shared by so many processes of this machine.

    One job is what joblib is configured to do, which is one after another if nothing is.

    Raises:
        ValueError: If it is no positive integer.
    """
    if positive_integer("--jobs", jobs) == 1:
        yield
        return
    with joblib.parallel_config(backend="loky", n_jobs=jobs):
        yield


def each(
    function: Callable[[Task], Result], tasks: Iterable[Task], argument: str
) -> Generator[tuple[int, Result]]:
    """Calls a function for each task.

    Args:
        function: It draws by the seed of its task alone, and leaves nothing behind.
        tasks: What differs between the calls. They are asked for as they are begun, so that what
            need not be done any more may be left out.
        argument: What the function has of the caller's own, to name where it cannot be sent.

    Yields:
        The number of a task and what came of it, in the order in which they end.

    Raises:
        ValueError: If the function cannot be sent to another process.
        ChildProcessError: If one ends unasked.
    """
    how = _How.now()
    if _is_here():
        for number, task in enumerate(tasks):
            with how.set():
                result = function(task)
            yield number, result
        return
    sent = _packed(function, argument)
    digest = hashlib.sha256(sent.data).hexdigest()
    owner = os.getpid() if _is_of_this_machine() else None
    calls = (
        joblib.delayed(_work)(sent, digest, argument, owner, how, number, task)
        for number, task in enumerate(tasks)
    )
    try:
        with closing(_as_they_end(calls)) as ended:
            yield from ended
    except BrokenProcessPool as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ChildProcessError(f"a process that fits has ended unasked: {reason}") from error


def _as_they_end(calls: Iterator[Any]) -> Generator[tuple[int, Any]]:
    backend, _ = joblib.parallel.get_active_backend()
    if backend.supports_return_generator:
        results = joblib.Parallel(return_as="generator_unordered", batch_size=1)(calls)
        with _closing_quietly(results):
            # By ``yield from`` it would be closed before, with the warning.
            for result in results:  # noqa: UP028
                yield result
        return
    # Ray, and pools of multiprocessing, return all that they were given at once: a round of calls.
    with joblib.Parallel(batch_size=1) as parallel:
        size = joblib.effective_n_jobs(parallel.n_jobs)
        while some := list(itertools.islice(calls, size)):
            yield from parallel(some)


@contextmanager
def _closing_quietly(results: Generator[Any]) -> Iterator[None]:
    """Closes what joblib returns: who stops early knows that there was more to come."""
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            results.close()


def _is_here() -> bool:
    """Whether nothing else is configured than one fit after another in this process."""
    return joblib.effective_n_jobs(joblib.Parallel().n_jobs) == 1 and _is_of_this_machine()


def _is_of_this_machine() -> bool:
    backend, _ = joblib.parallel.get_active_backend()
    return type(backend) in [joblib.parallel.BACKENDS[name] for name in _LOCAL]


@dataclass(frozen=True)
class _How:
    """What numbers depend on besides a function and its task, and a new process does not know."""

    threads: int
    dtype: torch.dtype
    precision: str

    @classmethod
    def now(cls) -> _How:
        return cls(threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision())

    @contextmanager
    def set(self) -> Iterator[None]:
        count, dtype = torch.get_num_threads(), torch.get_default_dtype()
        precision = torch.get_float32_matmul_precision()
        try:
            torch.set_num_threads(self.threads)
            torch.set_default_dtype(self.dtype)
            torch.set_float32_matmul_precision(self.precision)
            yield
        finally:
            torch.set_num_threads(count)
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(precision)


class _Pickler(cloudpickle.Pickler):
    """Pickles functions that are found by no name, too, and parameters that Pyro has met."""

    def reducer_override(self, obj: Any) -> Any:
        """Returns how an object is pickled, or that it is as any other is."""
        if isinstance(obj, torch.Tensor):
            # The store leaves a weak reference here at each use, and those cannot be pickled.
            obj.__dict__.pop("unconstrained", None)
        return super().reducer_override(obj)


@dataclass(frozen=True)
class Parcel(Generic[Result]):
    """What a task comes to, where it is made of objects that pickle alone does not send back."""

    content: Result

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (_pickled(self.content),)


def _opened(content: bytes) -> Parcel[Any]:
    return Parcel(pickle.loads(content))


def _pickled(value: Any) -> bytes:
    content = io.BytesIO()
    _Pickler(content, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return content.getvalue()


def _packed(function: Callable[[Any], Any], argument: str) -> np.ndarray:
    """Returns a function as bytes: an array, which joblib shares between the calls."""
    try:
        return np.frombuffer(_pickled(function), dtype=np.uint8)
    except Exception as error:  # whatever an object of the caller's raises when it is pickled
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        what = "what can be sent to other processes (by cloudpickle), or one job, which needs none"
        raise expected(argument, what, reason) from None


def _work(
    sent: np.ndarray,
    digest: str,
    argument: str,
    owner: int | None,
    how: _How,
    number: int,
    task: Any,
) -> tuple[int, Any]:
    """Does one task, wherever this is."""
    if owner not in (None, os.getpid()) and not _watched:
        _watched.append(threading.Thread(target=_end_with, args=(owner,), daemon=True))
        _watched[0].start()
    with _one_at_a_time, how.set():
        function = _unpacked(sent, digest, argument)
        try:
            return number, function(task)
        except Exception as error:
            raise _that_travels(error) from error


def _end_with(owner: int) -> None:
    """Ends this process when the one that started it is killed: nobody else asks for results."""
    while os.getppid() == owner:
        time.sleep(_PAUSE)
    os._exit(1)


def _unpacked(sent: np.ndarray, digest: str, argument: str) -> Callable[[Any], Any]:
    if digest not in _received:
        _received.clear()
        try:
            _received[digest] = pickle.loads(sent.tobytes())
        except Exception as error:  # a module that is not there, or whatever one does
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            what = "what other processes can import: a module that is installed where they are"
            raise expected(argument, what, reason) from None
    return _received[digest]


def _that_travels(error: Exception) -> Exception:
    """Returns an error, or one that says the same if it cannot be sent back."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = next((each for each in _KINDS if isinstance(error, each)), RuntimeError)
        return kind(str(error))
    return error
