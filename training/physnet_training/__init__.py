"""Make a potential: datasets, training, evaluation. Reading needs no JAX."""

from physnet_training.loading.loader import PackedMemmapLoader as PackedMemmapLoader
from physnet_training.loading.loader import split_loader as split_loader
