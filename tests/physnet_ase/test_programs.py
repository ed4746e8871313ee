"""Compiled programs: where they are kept, what is left alone, how many there are."""

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ase import Atoms

from physnet_ase import PhysNetCalculator, untrained_potential
from physnet_ase import programs as compilation
from physnet_ase.config import ModelConfig
from physnet_ase.potential import Potential

TINY = ModelConfig(num_features=8, num_radial=4, num_blocks=1, cutoff=4.0)
MIN_TIME = "jax_persistent_cache_min_compile_time_secs"

# A process that answers one call, and says what came from disk and what was changed.
SCRIPT = """
import sys
import jax
before = dict(jax.config.values)
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(1) if event.endswith("cache_hits") else None
)
from ase.build import molecule
from physnet_ase import PhysNetCalculator
PhysNetCalculator(sys.argv[1]).get_forces(molecule("H2O"))
changed = [k for k in before if jax.config.values[k] != before[k]]
print(len(hits), changed, jax.config.jax_compilation_cache_dir)
"""


@pytest.fixture
def unconfigured(monkeypatch):
    """JAX as a user finds it: no folder for compiled programs."""
    chosen = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("PHYSNET_ASE_CACHE", raising=False)
    yield monkeypatch
    jax.config.update("jax_compilation_cache_dir", chosen)


def lowered():
    """A small program."""
    return jax.jit(lambda x: 2 * x).lower(np.ones(3, np.float32))


def run(model, **environment):
    """One process with its own settings: what it printed, and wrote besides."""
    kept = {"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model)],
        env=kept | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.strip(), done.stderr


def test_a_second_process_reads_the_programs_of_the_first(tmp_path):
    model = untrained_potential(TINY).save(tmp_path / "model")
    first, _ = run(model, XDG_CACHE_HOME=tmp_path)
    assert first.startswith("0 ['jax_compilation_cache_dir']")
    second, errors = run(model, XDG_CACHE_HOME=tmp_path)
    [folder] = (tmp_path / "physnet-ase" / "jax").iterdir()
    assert second == f"1 ['jax_compilation_cache_dir'] {folder}"
    assert errors == ""  # XLA has pages to say about cached code
    off, _ = run(model, XDG_CACHE_HOME=tmp_path, PHYSNET_ASE_CACHE="off")
    assert off == "0 [] None"


def test_where_programs_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("PHYSNET_ASE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu = compilation.cache_folder().name
    assert compilation.cache_folder() == tmp_path / "physnet-ase" / "jax" / cpu
    monkeypatch.delenv("XDG_CACHE_HOME")
    home = Path.home() / ".cache" / "physnet-ase" / "jax" / cpu
    assert compilation.cache_folder() == home
    monkeypatch.setenv("PHYSNET_ASE_CACHE", str(tmp_path / "mine"))
    assert compilation.cache_folder() == tmp_path / "mine" / cpu
    monkeypatch.setenv("PHYSNET_ASE_CACHE", "OFF")
    assert compilation.cache_folder() is None


def test_the_users_own_folder_and_limits_stand(unconfigured, tmp_path):
    unconfigured.setenv("PHYSNET_ASE_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "user"))
    limit = getattr(jax.config, MIN_TIME)
    compilation.compile_program(lowered(), "double")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "user")
    assert getattr(jax.config, MIN_TIME) == limit
    assert not (tmp_path / "ours").exists()


def test_the_limit_is_put_back(unconfigured, tmp_path):
    unconfigured.setenv("PHYSNET_ASE_CACHE", str(tmp_path))
    limit = getattr(jax.config, MIN_TIME)
    compilation.compile_program(lowered(), "double")
    assert jax.config.jax_compilation_cache_dir == str(compilation.cache_folder())
    assert getattr(jax.config, MIN_TIME) == limit > 0.0


def test_a_folder_that_cannot_be_written_is_one_warning(unconfigured, tmp_path):
    (tmp_path / "file").write_text("in the way")
    unconfigured.setenv("PHYSNET_ASE_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"not kept: .*file.* cannot be written"):
        doubled = compilation.compile_program(lowered(), "double")
    np.testing.assert_array_equal(doubled(np.ones(3, np.float32)), 2.0)
    assert jax.config.jax_compilation_cache_dir is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compilation.compile_program(lowered(), "double")


def test_entries_that_cannot_be_read_are_removed_and_nothing_else(tmp_path):
    for name in ("jit_ours-1-cache", "jit_ours-2-cache", "jit_other-1-cache"):
        (tmp_path / name).write_text("half an entry")
    message = "Error reading persistent compilation cache entry for 'jit_ours': broken"
    with compilation._mending(tmp_path, "ours"):
        warnings.warn(message, stacklevel=1)
    assert [path.name for path in tmp_path.iterdir()] == ["jit_other-1-cache"]
    with pytest.warns(UserWarning, match="broken"), compilation._mending(None, "ours"):
        warnings.warn(message, stacklevel=1)  # the user's folder is the user's
    with (
        pytest.warns(UserWarning, match="something else"),
        compilation._mending(tmp_path, "other"),
    ):
        warnings.warn("something else", stacklevel=1)
    assert (tmp_path / "jit_other-1-cache").exists()


@pytest.mark.parametrize(
    ("environment", "config", "level"),
    [(None, "", 1), ("0", "", 0), ("2", "", 2), ("x", "", 1), ("2", "INFO", 0)],
)
def test_xla_keeps_the_level_of_its_log(monkeypatch, environment, config, level):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if environment is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", environment)
    settings = SimpleNamespace(jax_logging_level=config)
    monkeypatch.setattr(compilation, "_CONFIG", settings)
    assert compilation._log_level() == level


@pytest.fixture
def compilations():
    """Programs that JAX says it has compiled since the test began."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def test_thirty_molecules_in_two_states_compile_six_programs(compilations):
    untrained = untrained_potential(TINY, states=((0, 1), (0, 3)))
    calculator = PhysNetCalculator(Potential(untrained.metadata, untrained.params))
    grid = 1.3 * np.argwhere(np.ones((4, 4, 3)))
    compilations.clear()
    for count in [*range(1, 27), 30, 34, 37, 40]:
        atoms = Atoms("O" + "C" * (count - 1), grid[:count])
        for multiplicity in (1, 3):
            atoms.info["spin_multiplicity"] = multiplicity
            atoms.calc = calculator
            assert np.isfinite(atoms.get_potential_energy())
            assert atoms.get_forces().shape == (count, 3)
    assert calculator.num_compilations == len(compilations) <= 6
