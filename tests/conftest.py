"""Shared by all tests: CPU, no window system, seeded random numbers."""

import os

# Before anything imports JAX or matplotlib; an explicit choice of the user stands.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run and for every order of tests."""
    return np.random.default_rng(20190512)
