"""Where calculations run: processes of this machine, or a cluster through executorlib.

Each gives an object with the ``submit`` of ``concurrent.futures``. A calculation that
hangs or kills its process costs only itself.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

ExecutorName = Literal["local", "slurm", "flux"]
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_CLUSTERS = {"slurm": ("Slurm", "SLURM_JOB_ID"), "flux": ("Flux", "FLUX_URI")}


@contextmanager
def open_executor(
    name: ExecutorName, *, workers: int, timeout_s: float | None, folder: Path
) -> Iterator[Executor]:
    """An executor for as long as the block lasts.

    Args:
        name: ``local``; ``slurm`` or ``flux``: inside an allocation its cores, outside
            of one a job for each calculation.
        workers: Most calculations at a time.
        timeout_s: A calculation that takes longer is stopped; None: none is.
        folder: Where a cluster's files go.

    Raises:
        ImportError: ``executorlib`` is not installed.
    """
    if name == "local":
        with _one_thread(), _LocalPool(workers, timeout_s) as local:
            yield local
        return
    try:
        executorlib = importlib.import_module("executorlib")
    except ImportError as error:
        raise ImportError(
            f"--executor {name} needs executorlib, which is not installed; install "
            "physnet-ase[cluster]"
        ) from error
    title, inside = _CLUSTERS[name]
    resources: dict[str, Any] = {"cores": 1, "threads_per_core": 1}
    if timeout_s is not None:
        resources["run_time_max"] = int(timeout_s) + 1
    options: dict[str, Any] = {"max_workers": workers, "resource_dict": resources}
    if inside in os.environ:
        make = getattr(executorlib, f"{title}JobExecutor")
    else:
        make = getattr(executorlib, f"{title}ClusterExecutor")
        options["cache_directory"] = str(folder / "cluster")
    with make(**options) as cluster:
        yield cluster


def reason(error: BaseException) -> str:
    """Why a calculation has no result, in one line.

    The kind of the error is named only where it says more than its text.
    """
    if hasattr(error, "exitcode"):
        return f"the process died with code {error.exitcode}"
    if isinstance(error, TimeoutError) and len(error.args) == 2:
        return f"it took longer than {error.args[1]:g} s"
    text = " ".join(str(error).split())
    plain = type(error) in (ValueError, RuntimeError) and text
    return text if plain else f"{type(error).__name__}: {text}"


class _LocalPool(Executor):
    """Processes of this machine; one that takes too long is killed and replaced."""

    def __init__(self, workers: int, timeout_s: float | None) -> None:
        from pebble import ProcessPool

        # A fork would copy locks of this process' threads.
        self._pool: Any = ProcessPool(workers, context=get_context("spawn"))
        self._timeout_s = timeout_s

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Call a function of a module in another process."""
        future: Future[Any] = self._pool.schedule(
            fn, args=args, kwargs=kwargs, timeout=self._timeout_s
        )
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Kill what is still running."""
        self._pool.stop()
        self._pool.join()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Environment in which numerical libraries of new processes use one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
