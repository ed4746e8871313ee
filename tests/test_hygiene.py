"""What must stay true of the packages as a whole: imports, dependencies, README."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import physnet_ase

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "physnet_ase": ROOT / "physnet_ase",
    "physnet_training": ROOT / "training" / "physnet_training",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
EXTRAS = PROJECT["optional-dependencies"]
FILES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))


def normalised(requirements):
    """Names of the distributions behind requirement strings."""
    names = (Requirement(text).name for text in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def imports_of(path):
    """Top-level names of the libraries that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def complaints_of(code):
    """What a fresh interpreter complains of, warnings included."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    return result.stderr or f"ended with {result.returncode}" * bool(result.returncode)


def test_import_of_physnet_ase_is_light():
    code = (
        "import sys, physnet_ase\n"
        "physnet_ase.ElectronicState(1, 2), physnet_ase.__version__, dir(physnet_ase)\n"
        "heavy = {'jax', 'jax_md', 'flax', 'physnet_training'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert complaints_of(code) == ""


def test_reader_of_packed_data_needs_no_jax():
    code = (
        "import sys\n"
        "from physnet_training import PackedMemmapLoader, split_loader\n"
        "heavy = {'jax', 'jax_md', 'flax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert complaints_of(code) == ""


# jax-md takes seconds to import and initialises the backend, which forbids
# `jax.distributed.initialize` afterwards; our own modules must do neither.
def test_imports_change_no_jax_config_and_start_no_backend():
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import sys, jax, flax.linen, optax\n"
        "from jax._src import xla_bridge\n"
        "before = dict(jax.config.values)\n"
        "import physnet_ase.potential, physnet_ase.calculator, physnet_ase.cli\n"
        "import physnet_training.train.trainer, physnet_training.cli\n"
        "changed = {k for k, v in jax.config.values.items()\n"
        "           if k in before and before[k] != v}\n"
        "assert not changed, changed\n"
        "assert not jax.config.jax_enable_x64\n"
        "assert not xla_bridge.backends_are_initialized()\n"
        "assert 'jax_md' not in sys.modules\n"
    )
    assert complaints_of(code) == ""


def test_every_public_name_resolves():
    assert {"load_potential", "PhysNetCalculator"} <= set(physnet_ase.__all__)
    missing = [n for n in physnet_ase.__all__ if getattr(physnet_ase, n, None) is None]
    assert missing == []
    assert set(physnet_ase.__all__) <= set(dir(physnet_ase))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = physnet_ase.no_such_name


def test_type_checkers_see_the_lazy_names():
    path = PACKAGES["physnet_ase"] / "__init__.py"
    guarded = next(
        n
        for n in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(n, ast.If)
    )
    seen = {
        (node.module, alias.asname)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {(f"physnet_ase.{m}", n) for n, m in physnet_ase._EXPORTS.items()}
    assert seen == lazy | {("physnet_ase", name) for name in physnet_ase._SUBMODULES}


def test_jax_md_is_imported_in_its_two_rooms_only():
    package = PACKAGES["physnet_ase"]
    users = {path for path in FILES if "jax_md" in imports_of(path)}
    assert users
    outside = {
        path
        for path in users
        if path != package / "jaxmd.py" and path.parent != package / "simulate"
    }
    assert outside == set()


def test_nothing_is_pickled():
    """Loky and spawned processes hand over arguments; no file of ours is a pickle."""
    pickles = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert {path for path in FILES if imports_of(path) & pickles} == set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path


def test_dependencies_are_explained_and_pinned():
    extras = [text for group in EXTRAS.values() for text in group]
    named = normalised(PROJECT["dependencies"] + extras)
    rows = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").splitlines()
    explained = {row.split("`")[1] for row in rows if row.startswith("| `")}
    assert named - explained == set()
    assert explained - named == set()
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert "://" not in text
    assert named - normalised(lines) - {"pre-commit"} == set()


def test_broken_jax_releases_are_excluded():
    jax = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "jax")
    accepted = [
        v for v in ("0.10.1", "0.10.2", "0.11.1", "0.12.0.1") if v in jax.specifier
    ]
    assert accepted == ["0.10.1", "0.12.0.1"]


def test_wheel_holds_two_packages_and_the_pretrained_models(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run([*command, "-d", str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    pretrained = PACKAGES["physnet_ase"] / "pretrained"
    models = {path.parent.name for path in pretrained.glob("*/model.json")}
    assert "states-dft-small" in models
    for model in models:
        assert f"physnet_ase/pretrained/{model}/weights.safetensors" in names


def test_readme_snippets_run(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    assert snippets, "README.md shows no Python at all"
    monkeypatch.chdir(tmp_path)  # what a snippet writes goes there
    namespace = {"__name__": "__main__"}
    for number, snippet in enumerate(snippets, start=1):
        exec(compile(snippet, f"README.md, snippet {number}", "exec"), namespace)
