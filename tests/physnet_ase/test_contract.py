"""Every variant of the model under the physics contract."""

from contract import PotentialContract


class TestPaper(PotentialContract):
    fields = {}  # noqa: RUF012 (declared in the base class)


class TestEmbedding(PotentialContract):
    fields = {"conditioning": "embedding"}  # noqa: RUF012


class TestAngular(PotentialContract):
    fields = {  # noqa: RUF012 (the preset "small", smaller)
        "num_residual_atomic": 1,
        "num_residual_interaction": 1,
        "max_degree": 2,
    }


class TestRepulsion(PotentialContract):
    fields = {"zbl": True, "num_residual_interaction": 1}  # noqa: RUF012


class TestWithoutElectrostatics(PotentialContract):
    fields = {"electrostatics": False, "max_degree": 1}  # noqa: RUF012


class TestSpinPopulations(PotentialContract):
    fields = {"spin_populations": True, "num_residual_interaction": 1}  # noqa: RUF012


class TestLocal(PotentialContract):
    fields = {  # noqa: RUF012
        "conditioning": "local",
        "vector_features": True,
        "spin_populations": True,
        "num_residual_interaction": 1,
    }


class TestHeads(PotentialContract):
    fields = {"num_heads": 3, "num_residual_interaction": 1}  # noqa: RUF012
