"""The configuration refuses what it does not know and says what is allowed."""

import pytest
from pydantic import ValidationError

from physnet_ase.config import PRESETS, ModelConfig, resolve_config


def test_paper_has_the_published_sizes():
    paper = resolve_config("paper")
    # Unke & Meuwly 2019, Table 1
    assert (paper.num_features, paper.num_radial, paper.num_blocks) == (128, 64, 5)
    assert (paper.num_residual_atomic, paper.num_residual_interaction) == (2, 3)
    assert (paper.num_residual_output, paper.cutoff) == (1, 10.0)
    assert (paper.max_degree, paper.zbl) == (0, False)


def test_every_preset_survives_a_round_trip_and_hashes():
    for name, config in PRESETS.items():
        again = ModelConfig.model_validate_json(config.model_dump_json())
        assert again == config == resolve_config(name)
        assert hash(again) == hash(config)


def test_mapping_starts_from_its_preset_and_is_validated():
    config = resolve_config({"preset": "small", "num_blocks": 2})
    assert config.num_blocks == 2
    assert config.max_degree == PRESETS["small"].max_degree
    assert resolve_config({"cutoff": 5.0}).num_features == 128
    assert resolve_config(config) is config
    with pytest.raises(ValidationError, match="num_block\n.*[Ee]xtra"):
        resolve_config({"num_block": 2})


def test_unknown_preset_names_the_known_ones():
    message = r"config must be one of \['paper', 'small'\], got 'large'"
    with pytest.raises(ValueError, match=message):
        resolve_config("large")
    with pytest.raises(ValueError, match="got 'large'"):
        resolve_config({"preset": "large"})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"charge_range": (1, 2)}, r"charge_range must contain 0, got 1\.\.2"),
        ({"charge_range": (-3, -1)}, r"charge_range must contain 0, got -3\.\.-1"),
        ({"spin_range": (2, 4)}, r"must start at 1, got 2\.\.4"),
        ({"spin_range": (1, 0)}, r"must start at 1, got 1\.\.0"),
        ({"cutoff": 0.0}, "greater than 0"),
        ({"num_blocks": 0}, "greater than or equal to 1"),
        ({"max_degree": 3}, "0, 1 or 2"),
        ({"conditioning": "none"}, "'attention', 'embedding' or 'local'"),
        ({"charge_embedding": 8}, "Extra inputs are not permitted"),
    ],
)
def test_bad_values_are_refused_with_what_is_allowed(fields, words):
    with pytest.raises(ValidationError, match=words):
        ModelConfig(**fields)


def test_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig().cutoff = 5.0
