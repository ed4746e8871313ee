"""physnet-train as a person types it: what it prints, writes and refuses."""

import json
import tomllib
from pathlib import Path

import pytest
from physnet_training.cli import app
from physnet_training.packed import PackedDataset
from typer.testing import CliRunner

DATA = Path(__file__).parents[2] / "training" / "data" / "states_dft"
RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.toml"))
RECIPE = """
name = "tiny"
[model]
num_features = 8
num_radial = 8
num_blocks = 1
cutoff = 5.0
[split]
kind = "geometry"
holdout_groups = ["NH2"]
[optimizer]
steps = 20
batch_size = 16
validate_every = 10
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("data") / "ladders"
    found = CliRunner().invoke(app, ["convert", str(DATA / "ladders.npz"), str(target)])
    assert found.exit_code == 0, found.output
    assert "491 molecules" in found.output
    return target


def test_convert_train_evaluate_inspect(packed: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    run, runner = tmp_path / "run", CliRunner()
    done = runner.invoke(
        app, ["train", str(recipe), "--out", str(run), "--data", str(packed)]
    )
    assert done.exit_code == 0, done.output
    stages = [
        "fitting reference energies",
        "describing the atoms and states of the training part",
        "molecules to train",
        "compiling",
        "evaluating the 18 molecules of the test part",
    ]
    assert sorted(stages, key=done.output.index) == stages
    report = json.loads((run / "evaluation.json").read_text())
    assert report["test"][0]["molecules"] == 18  # NH2: three geometries, six states
    errors = tmp_path / "errors.json"
    done = runner.invoke(
        app, ["evaluate", str(run / "model"), str(packed), "--json", str(errors)]
    )
    assert done.exit_code == 0, done.output
    packed_report = json.loads(errors.read_text())
    assert packed_report["errors"][0]["molecules"] == 491
    worst = packed_report["worst"]["energy"]
    sizes = [row["error_ev"] for row in worst]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 10
    assert "largest errors" in done.output
    raw = str(DATA / "ladders.npz")  # any source that convert takes
    done = runner.invoke(
        app, ["evaluate", str(run / "model"), raw, "--json", str(errors)]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(errors.read_text())["worst"]["energy"] == worst
    done = runner.invoke(app, ["inspect", str(packed), "--verify", "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["num_molecules"] == 491
    assert content["labels"]["forces"] == 491


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(recipe: Path) -> None:
    from physnet_training.train.recipe import load_recipe

    loaded = load_recipe(recipe)
    assert loaded.name
    assert all(Path(source).is_file() for source in loaded.data.sources)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "[optimizer]\nstep = 5",
            "optimizer.step: unknown key; nearest is optimizer.steps",
        ),
        ("[model]\nsteps = 5", "model.steps: unknown key; nearest is optimizer.steps"),
        ("[optimiser]\nsteps = 5", "optimiser: unknown key; nearest is optimizer"),
        ("[optimizer]\nsteps = 0", "optimizer.steps: Input should be greater"),
        ("[model]\npreset = 'huge'", "must be one of"),
        ("[split]\nkind = 'permutation'", "num_train and num_validation"),
        ("name = ", "is not valid TOML"),
    ],
)
def test_a_bad_recipe_is_one_line_that_names_the_key(
    content: str, message: str, packed: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_text(content)
    run = tmp_path / "run"
    done = CliRunner().invoke(
        app, ["train", str(recipe), "--out", str(run), "--data", str(packed)]
    )
    assert done.exit_code == 2
    assert message in done.stderr
    assert "bad.toml" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not run.exists()


def test_shown_defaults_are_a_recipe_of_all_defaults() -> None:
    from physnet_training.train.recipe import Recipe, recipe_from

    done = CliRunner().invoke(app, ["train", "--show-defaults"])
    assert done.exit_code == 0, done.output
    assert recipe_from(tomllib.loads(done.stdout), "shown") == Recipe()
    lines = done.stdout.splitlines()
    explained = [line for line in lines if " = " in line and "# " not in line]
    assert all(lines[lines.index(line) - 1].startswith("# ") for line in explained)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.lerning_rate=1e-4", "nearest is optimizer.learning_rate"),
        ("optimizer.learning_rate=fast", "should be a valid number"),
        ("optimizer.learning_rate", "expected KEY=VALUE"),
        ("loss.energies=1", "nearest is loss.energy"),
        ("optimizer.steps=[1", "is no TOML value"),
    ],
)
def test_a_bad_setting_names_what_is_allowed(
    setting: str, message: str, tmp_path: Path
) -> None:
    recipe, run = tmp_path / "r.toml", tmp_path / "run"
    recipe.write_text("name = 'x'")
    done = CliRunner().invoke(
        app, ["train", str(recipe), "--out", str(run), "--set", setting]
    )
    assert done.exit_code == 2
    assert message in done.stderr
    assert not run.exists()


def test_settings_go_before_the_file(tmp_path: Path) -> None:
    from physnet_training.train.recipe import load_recipe

    recipe = tmp_path / "r.toml"
    recipe.write_text("model = 'small'\n[optimizer]\nsteps = 5")
    loaded = load_recipe(
        recipe, ["optimizer.steps=7", "optimizer.schedule=wsd", "model.cutoff=4.5"]
    )
    assert (loaded.optimizer.steps, loaded.optimizer.schedule) == (7, "wsd")
    assert (loaded.model.cutoff, loaded.model.num_features) == (4.5, 64)


def test_suggested_recipe_suits_the_data(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from physnet_training.train import suggest
    from physnet_training.train.recipe import Recipe, load_recipe

    def measure(recipe: Recipe, dataset: PackedDataset) -> suggest.StepCost:
        return suggest.StepCost(0.01, 10**8 * recipe.optimizer.batch_size)

    monkeypatch.setattr(suggest, "measure", measure)
    target = tmp_path / "start.toml"
    command = ["recipe", str(packed), "--minutes", "2", "--out", str(target)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    recipe = load_recipe(target)
    assert recipe.data.sources == (str(packed.resolve()),)
    assert recipe.split.kind == "geometry"  # several states of one geometry
    assert recipe.model.charge_range == (-1, 1)
    assert recipe.model.spin_range == (1, 4)
    assert recipe.model.spin_populations
    assert recipe.model.vector_features
    assert recipe.optimizer.kind == "muon"
    assert recipe.optimizer.steps == 10_000  # 85 % of 2 minutes
    assert recipe.optimizer.batch_size == 16
    assert recipe.loss.weight("forces") == 10.0
    assert recipe == suggest.suggest(PackedDataset.open(packed), 0.01, 2.0)
    assert "# one step of 16 molecules took 0.01 s and 1.6 GB;" in target.read_text()
    assert CliRunner().invoke(app, command).exit_code == 2  # the file exists

    target.unlink()
    done = CliRunner().invoke(app, [*command, "--memory", "0.5"])
    assert done.exit_code == 0, done.output
    smaller = load_recipe(target).optimizer
    assert (smaller.batch_size, smaller.accumulate) == (4, 4)
    assert smaller.molecules_per_step == 16
    done = CliRunner().invoke(app, [*command[:-1], "x.toml", "--memory", "0.05"])
    assert done.exit_code == 2
    assert "one molecule of 8 atoms needs 0.1 GB, --memory allows 0.05" in " ".join(
        done.stderr.split()
    )


def test_recipe_without_data_says_how_to_give_it(tmp_path: Path) -> None:
    recipe = tmp_path / "nodata.toml"
    recipe.write_text("name = 'x'")
    done = CliRunner().invoke(
        app, ["train", str(recipe), "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 2
    assert "--data" in done.stderr


def test_dataset_of_an_earlier_attempt_is_not_taken_for_another(tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.toml"
    recipe.write_text("[split]\nkind = 'geometry'\nholdout_groups = ['XY']")
    run = str(tmp_path / "run")
    first = ["train", str(recipe), "--out", run, "--data", str(DATA / "ladders.npz")]
    done = CliRunner().invoke(app, first)
    assert "no molecule is called 'XY'" in done.stderr
    other = [*first[:-1], str(DATA / "states_dft.npz")]
    done = CliRunner().invoke(app, other)
    assert done.exit_code == 2
    assert "converted from other files" in done.stderr


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["resume", str(tmp_path)])
    assert done.exit_code == 2
    assert "is not a training run" in done.stderr


def test_unknown_model_lists_the_pretrained_ones(packed: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", "no-such-model", str(packed)])
    assert done.exit_code == 2
    assert "states-dft-small" in done.stderr
