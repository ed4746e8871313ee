"""Compiled programs of a model: one per kind of result and size, kept on disk.

JAX can keep compiled code on disk, but only when told where. The first program of a
potential tells it, unless the user has: a folder of the user's, per kind of CPU, since
code for one may not run on another. ``PHYSNET_ASE_CACHE=off`` switches this off,
``PHYSNET_ASE_CACHE=/a/folder`` chooses another place.
"""

import functools
import hashlib
import os
import platform
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from physnet_ase.config import ModelConfig
from physnet_ase.energy import PROGRAMS, Params
from physnet_ase.graph import Graph

CACHE_VARIABLE = "PHYSNET_ASE_CACHE"
"""Environment variable: "off", or the folder for compiled programs."""
_MIN_COMPILE_TIME = "jax_persistent_cache_min_compile_time_secs"
_UNREADABLE = "Error reading persistent compilation cache entry"
"""How JAX's warning begins."""
_SHOWN: dict[Any, Any] = {}
"""Warnings that Python has shown already, so that none is repeated."""
_SILENT = 3
"""Level of XLA's log at which only fatal errors are written."""

_CONFIG: Any = jax.config
"""Its settings are attributes that type checkers do not know."""

LOCK = threading.RLock()
"""Held while compiling: settings of JAX change meanwhile, and are put back."""


class Programs:
    """The compiled functions of one model in one precision.

    Args:
        config: Architecture.
        params: Weights, cast to ``dtype``.
        dtype: float32 or float64; a float64 call switches JAX to 64 bits for itself, in
            its own thread.

    Raises:
        ValueError: Another dtype.
    """

    def __init__(self, config: ModelConfig, params: Params, dtype: Any) -> None:
        self.config = config
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.dtype("float32"), np.dtype("float64")):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype}")
        self.params = jax.tree.map(lambda x: np.asarray(x, self.dtype), params)
        self._compiled: dict[tuple[Any, ...], Any] = {}
        self._device_params: Any = None

    def __len__(self) -> int:
        return len(self._compiled)

    def prepare(self, graph: Graph) -> Graph:
        """Copy a graph to the device in this precision, for repeated use."""
        refuse_after_fork()
        with jax.enable_x64(self.dtype == np.float64):
            return jax.device_put(self._cast(graph))

    def run(self, graph: Graph, kind: str) -> dict[str, Any]:
        """Run one program on a padded graph; JAX arrays without references.

        Args:
            graph: NumPy graph, cast to this precision, or a prepared one.
            kind: One of ``energy.PROGRAMS``.

        Raises:
            RuntimeError: This process was forked from one that computed already.
        """
        refuse_after_fork()
        with jax.enable_x64(self.dtype == np.float64):
            graph = self._cast(graph)
            sizes = (
                kind,
                *map(len, _one_of_each_length(graph)),
                *graph.mesh.shape,
            )
            program = self._compiled.get(sizes) or self._compile(sizes, graph)
            return program(self._device_params, graph)

    def _cast(self, graph: Graph) -> Graph:
        floats = {
            name: array if array.dtype == self.dtype else np.asarray(array, self.dtype)
            for name in ("positions", "shifts", "cell")
            for array in (getattr(graph, name),)
        }
        return graph._replace(**floats, labels=None, level=None)

    def _compile(self, sizes: tuple[Any, ...], graph: Graph) -> Any:
        """Compile the program of one kind and size class, once for all threads."""
        compute, config = PROGRAMS[sizes[0]], self.config

        def program(params: Params, graph: Graph) -> dict[str, Any]:
            return compute(config, params, graph)

        program.__name__ = f"physnet_{sizes[0]}"  # seen in profiles, names files
        with LOCK:
            if self._device_params is None:
                self._device_params = jax.device_put(self.params)
            if sizes not in self._compiled:
                lowered = jax.jit(program).lower(self._device_params, graph)
                self._compiled[sizes] = compile_program(lowered, program.__name__)
            return self._compiled[sizes]


def _one_of_each_length(graph: Graph) -> tuple[Any, ...]:
    return graph.positions, graph.senders, graph.long_senders, graph.total_charge


_forked = threading.Event()
"""Set in a process that was forked from one in which JAX had started."""


def _note_fork() -> None:
    try:
        from jax._src.xla_bridge import backends_are_initialized
    except ImportError:  # private, so it may go: then a fork hangs as JAX says it does
        return
    if backends_are_initialized():
        _forked.set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def refuse_after_fork() -> None:
    """Raise instead of hanging: JAX's threads do not survive a fork."""
    if _forked.is_set():
        raise RuntimeError(
            "this process was forked after JAX had started, and would hang: use the "
            'start method spawn, multiprocessing.get_context("spawn"), or fork before '
            "the first energy"
        )


def cache_folder() -> Path | None:
    """Where compiled programs are kept by default; None when switched off."""
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen.lower() == "off":
        return None
    if chosen:
        return Path(chosen).expanduser() / _cpu_type()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "physnet-ase" / "jax" / _cpu_type()


def compile_program(lowered: jax.stages.Lowered, name: str) -> jax.stages.Compiled:
    """Compile the lowered function ``name``, or fetch it; call it holding ``LOCK``."""
    with _keeping_programs() as folder, _mending(folder, name), _without_tuning_notes():
        return lowered.compile()


@functools.cache
def _cpu_type() -> str:
    """Name that differs where compiled code may not run: "x86_64-1f3a9c02"."""
    features = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        named = (line for line in lines if line.lower().startswith(("flags", "feat")))
        features = next(named, features)
    digest = hashlib.sha256(features.encode()).hexdigest()[:8]
    return f"{platform.machine() or 'cpu'}-{digest}"


@functools.cache
def _usable(folder: Path) -> bool:
    """Whether programs can be written there; if not, warn once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        warnings.warn(
            f"compiled programs are not kept: {folder} cannot be written ({error}); "
            f"set {CACHE_VARIABLE} to another folder, or to off",
            stacklevel=2,
        )
        return False


@contextmanager
def _keeping_programs() -> Iterator[Path | None]:
    """Have JAX keep what is compiled meanwhile, unless the user chose otherwise.

    Yields the folder if it is ours.
    """
    folder = cache_folder()
    chosen = _CONFIG.jax_compilation_cache_dir
    if folder is None or chosen not in (None, str(folder)) or not _usable(folder):
        yield None
        return
    if chosen is None:
        _CONFIG.update("jax_compilation_cache_dir", str(folder))
    # By default JAX keeps only what took a second to compile. Ours take longer on slow
    # machines and less on fast ones; what is compiled outside keeps the user's limit.
    limit: Any = getattr(_CONFIG, _MIN_COMPILE_TIME)
    _CONFIG.update(_MIN_COMPILE_TIME, 0.0)
    try:
        yield folder
    finally:
        _CONFIG.update(_MIN_COMPILE_TIME, limit)


@contextmanager
def _mending(folder: Path | None, name: str) -> Iterator[None]:
    """Remove programs that cannot be read; the next process writes them again.

    A process that ended while writing, or a full disk, leaves half an entry behind.
    JAX never replaces it, so each later process would compile again and complain.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for one in caught:
        if folder is not None and _UNREADABLE in str(one.message):
            for entry in folder.glob(f"jit_{name}-*"):
                entry.unlink(missing_ok=True)
        else:
            warnings.warn_explicit(
                str(one.message),
                one.category,
                one.filename,
                one.lineno,
                registry=_SHOWN,
            )


@contextmanager
def _without_tuning_notes() -> Iterator[None]:
    """Silence XLA while it reads cached code.

    For every program it writes a page about tuning flags (``prefer-no-gather``) that
    are no features of a CPU and change nothing. Who sets ``TF_CPP_MIN_LOG_LEVEL=0``
    sees them all.
    """
    level = _log_level()
    if level == 0:
        yield
        return
    jax.devices()  # the start of a backend sets the level anew
    try:
        from jax._src.lib import utils  # type: ignore[attr-defined]

        set_level = utils.absl_set_min_log_level
    except (ImportError, AttributeError):  # private, so it may go: then they are seen
        yield
        return
    set_level(_SILENT)
    try:
        yield
    finally:
        set_level(level)


def _log_level() -> int:
    """Level of XLA's log that the user, or else JAX, has set."""
    named = {"CRITICAL": 3, "FATAL": 3, "ERROR": 2, "WARN": 1, "WARNING": 1}
    chosen = str(_CONFIG.jax_logging_level)
    if chosen in ("INFO", "DEBUG"):
        return 0
    text = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")
    return named.get(chosen, int(text) if text.isdigit() else 1)
