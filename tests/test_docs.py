"""The documentation keeps what it says: snippets run, settings and names are right."""

import inspect
import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.sources.keys import key_table
from physnet_training.train.recipe import (
    DataConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    SamplingConfig,
    SplitConfig,
    StartConfig,
)

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.config import PRESETS, ModelConfig
from physnet_ase.quantities import trained
from physnet_ase.simulate.settings import SimulationSettings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
RUNNABLE = re.compile(r"^<!-- runnable -->\n```python\n(.*?)^```", flags=re.M | re.S)
SECTIONS = {
    "`[data]`": DataConfig,
    "`[start]`": StartConfig,
    "`[model]`": ModelConfig,
    "`[split]`": SplitConfig,
    "`[sampling]`": SamplingConfig,
    "`[loss]`": LossConfig,
    "`[optimizer]`": OptimizerConfig,
    "Simulation": SimulationSettings,
}


def read(name):
    return (DOCS / name).read_text(encoding="utf-8")


def settings(heading):
    """Rows of the table under a heading of settings.md: name -> other cells."""
    parts = re.split(r"^## (.+)$", read("settings.md"), flags=re.M)
    section = dict(zip(parts[1::2], parts[2::2], strict=True))[heading]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0].strip("`"): row[1:] for row in cells}


def value(cell):
    """What a default in a table stands for, written as in TOML."""
    if cell == "none":
        return None
    found = tomllib.loads(f"x = {cell.strip('`')}")["x"]
    return tuple(found) if isinstance(found, list) else found


@pytest.mark.parametrize(("heading", "model"), SECTIONS.items(), ids=SECTIONS.keys())
def test_every_setting_is_explained_with_its_default(heading, model):
    rows = settings(heading)
    defaults = {name: field.default for name, field in model.model_fields.items()}
    if model is LossConfig:  # one weight for each entry of the table of quantities
        defaults |= {quantity.name: quantity.loss_weight for quantity in trained()}
    assert {name: value(cells[0]) for name, cells in rows.items()} == defaults


def test_settings_of_a_recipe_itself_and_its_sections():
    named = settings("Recipe")
    sections = {heading.strip("`[]") for heading in SECTIONS} - {"Simulation"}
    assert set(named) | sections == set(Recipe.model_fields)
    for name, cells in named.items():
        assert value(cells[0]) == Recipe.model_fields[name].default


def test_settings_of_the_small_preset():
    rows = settings("`[model]`")
    small = {name: value(cells[1]) for name, cells in rows.items()}
    assert small == dict(PRESETS["small"])
    assert set(PRESETS) == {"paper", "small"}


@pytest.mark.parametrize(
    ("heading", "function"),
    [("Loader", PackedMemmapLoader), ("Calculator", PhysNetCalculator)],
)
def test_arguments_are_explained_with_their_defaults(heading, function):
    parameters = list(inspect.signature(function).parameters.values())[1:]
    expected = {
        p.name: "required" if p.default is inspect.Parameter.empty else p.default
        for p in parameters
        if p.kind is not inspect.Parameter.VAR_KEYWORD  # refused by name
    }
    rows = settings(heading)
    found = {
        name: cells[0] if cells[0] == "required" else value(cells[0])
        for name, cells in rows.items()
    }
    assert found == expected


def test_keys_of_data_files_are_those_of_the_tables():
    section = read("data.md").split("### Which key is what")[1].split("\n###")[0]
    assert [li for li in section.splitlines() if li.startswith("|")] == key_table()


def test_navigation_names_every_page():
    lines = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").splitlines()
    named = {
        match[1] for line in lines if (match := re.match(r" +- .+: (\S+\.md)$", line))
    }
    assert named == {page.name for page in PAGES}


def test_api_page_names_what_exists():
    names = re.findall(r"^::: (\S+)$", read("api.md"), flags=re.M)
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            import_module(name)
        except ModuleNotFoundError:
            assert hasattr(import_module(module), attribute), name


def test_api_page_holds_every_public_name():
    import physnet_ase

    text = read("api.md")
    public = set(physnet_ase.__all__) - {"__version__"}
    assert [n for n in sorted(public) if not re.search(rf"\.{n}$", text, re.M)] == []


# A recipe may pass by structures that the small model does not know, and says so.
@pytest.mark.filterwarnings("ignore:.* is unfamiliar:UserWarning")
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if RUNNABLE.search(p.read_text("utf-8"))],
    ids=lambda p: p.stem,
)
def test_runnable_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a snippet writes goes there
    namespace = {"__name__": "__main__"}
    snippets = RUNNABLE.findall(page.read_text("utf-8"))
    for number, code in enumerate(snippets, start=1):
        exec(compile(code, f"{page.name}, snippet {number}", "exec"), namespace)
    # That none raised is the test; what they define shows that they ran.
    defined = set(namespace) - {"__name__", "__builtins__"}
    assert len(defined) >= len(snippets) > 0
