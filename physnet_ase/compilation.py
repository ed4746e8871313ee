"""Compiling programs, and keeping them on disk between processes.

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
