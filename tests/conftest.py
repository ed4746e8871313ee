"""Shared by all tests: CPU, no window system, a compilation cache, random numbers."""

import os
import platform
from pathlib import Path

import numpy as np
import pytest

# Read when JAX and matplotlib are imported; an explicit choice of the user stands.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# The tests compile more than they compute, and unoptimised code in half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# Tests compile the same few programs again and again. One folder per host and worker:
# JAX writes entries without a lock, and code for another host may not run on this one.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
_cache = Path(__file__).resolve().parents[1] / ".cache" / "jax"
_cache /= f"{platform.node()}-{_worker}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# XLA complains, in a page of text per program, about tuning flags of cached code.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


# Its assertions are to be explained like those of the test files.
pytest.register_assert_rewrite("contract")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run and for every order of tests."""
    return np.random.default_rng(20190512)
