"""The learned part: flax linen modules that map a Graph to per-atom outputs.

Another network is one more file, and one line in ``NETWORKS``. It takes a graph, the
distances of its pairs and their unit vectors, and gives a ``NetworkOutput``.
"""

from collections.abc import Callable
from typing import Any

from physnet_ase.config import ModelConfig
from physnet_ase.network.physnet import PhysNet

NETWORKS: dict[str, Callable[[ModelConfig], Any]] = {"physnet": PhysNet}
"""Value of ``ModelConfig.network`` -> the module that it names."""


def make_network(config: ModelConfig) -> Any:
    """The flax module of a configuration.

    Raises:
        ValueError: No network of that name.
    """
    if config.network not in NETWORKS:
        raise ValueError(
            f"network must be one of {sorted(NETWORKS)}, got {config.network!r}"
        )
    return NETWORKS[config.network](config)
