"""Heads of a trained model: its last weights as uncertain as the data leave them.

A linear map that was fitted to features Φ of molecules has weights of covariance
α² (ΦᵀΦ + λ)⁻¹: small along what the data hold, large along what they do not (the last
layer's prediction rigidity; Bigi, Chong, Ceriotti & Grasselli, Mach. Learn.: Sci.
Technol. 2024, 5, 045018). Heads are drawn from it around the trained weights, which
stay their mean, and α makes their spread that of the validation errors.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.checkpoint import read_model, write_model
from physnet_ase.energy import predicted_labels
from physnet_ase.graph import Graph
from physnet_ase.network.heads import probe, with_heads, without_heads
from physnet_ase.network.levels import joined_levels
from physnet_ase.potential import Potential, load_potential
from physnet_ase.programs import Programs
from physnet_ase.references import without_references
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.data import levels_of
from physnet_training.train.split import Split

Array = NDArray[Any]
LABELS = ("energy", "dipole")
"""What tells about the outputs of a head: energies, and charges."""
PRIOR = 1e-6
"""λ as a share of the mean eigenvalue of ΦᵀΦ; from 1e-8 to 1e-4 nothing changes."""
_BATCH = 64  # molecules
_MOST = 8_000  # molecules whose features are looked at


def add_heads(
    folder: Path, dataset: PackedDataset, split: Split, num_heads: int, seed: int
) -> None:
    """Give a stored model heads, or others than it has; its answers do not change.

    Args:
        folder: Model directory.
        dataset: What it was trained on, with its levels of theory.
        split: Who trained, and who validates.
        num_heads: How many there shall be.
        seed: Of the draws.
    """
    metadata, _ = read_model(folder)
    potential, rng = load_potential(folder), np.random.default_rng([seed, 0x4EAD5])
    models = [potential.level(name) for name in potential.levels] or [potential]
    drawn = []
    for number, model in enumerate(models):
        parts = [
            rows[levels_of(dataset, rows) == number]
            for rows in (split.train, split.validation)
        ]
        config, params = without_heads(model.config, model.params)
        apart = np.zeros((config.num_blocks, config.num_features, num_heads, 3))
        for column, label in enumerate(LABELS):
            if label in dataset.fields and not (column and config.charges_are_shared):
                each = _Rows(model, dataset, (column, label))
                cov = each.covariance(*parts)
                apart[..., column] = _draw(rng, cov, num_heads).reshape(apart.shape[:3])
        drawn.append(with_heads(config, params, apart)[1])
    config = metadata.config.model_copy(update={"num_heads": num_heads})
    joined = drawn[0] if len(drawn) == 1 else joined_levels(drawn)
    write_model(folder, metadata.model_copy(update={"config": config}), joined)


def _draw(rng: np.random.Generator, covariance: Array, num_heads: int) -> Array:
    """Deviations of weights that sum to nothing, [weights, heads]."""
    values, vectors = np.linalg.eigh(covariance)
    normal = rng.normal(size=(len(covariance), num_heads))
    # Taking off the mean takes variance off, which is put back.
    normal -= normal.mean(axis=1, keepdims=True)
    normal *= np.sqrt(num_heads / (num_heads - 1))
    weights: Array = vectors @ (np.sqrt(np.maximum(values, 0.0))[:, None] * normal)
    return weights


class _Rows:
    """One label as a linear function of one column of a model's heads."""

    def __init__(
        self, model: Potential, dataset: PackedDataset, kind: tuple[int, str]
    ) -> None:
        self.model, self.dataset = model, dataset
        self.column, self.label = kind
        config, params = without_heads(model.config, model.params)
        self.programs = Programs(*probe(config, params, self.column), model.dtype)

    def covariance(self, train: Array, validation: Array) -> Array:
        """Of the weights, scaled to the errors of the validation part."""
        first = self._rows(train)[0]
        gram = first.T @ first
        prior = PRIOR * max(float(np.trace(gram)) / len(gram), 1e-12)
        covariance = np.linalg.inv(gram + prior * np.eye(len(gram)))
        features, errors = self._rows(validation if len(validation) else train)
        variances = np.einsum("ij,jk,ik->i", features, covariance, features)
        known = np.isfinite(errors) & (variances > 0.0)
        scale = np.mean(errors[known] ** 2 / variances[known]) if known.any() else 0.0
        scaled: Array = scale * covariance
        return scaled

    def _rows(self, molecules: Array) -> tuple[Array, Array]:
        """Features [labels, weights] of labels that are there, and errors [labels]."""
        chosen = np.sort(molecules[:: max(len(molecules) // _MOST, 1)])
        weights = self.model.config.num_blocks * self.model.config.num_features
        features, errors = [np.zeros((0, weights))], [np.zeros(0)]
        loader = PackedMemmapLoader(self.dataset, _BATCH, shuffle=False)
        if len(chosen):
            for graph in loader.subset(chosen).graphs(self.model.config.cutoff):
                feature, error = self._of(graph)
                features.append(feature)
                errors.append(error)
        return np.concatenate(features), np.concatenate(errors)

    def _of(self, graph: Graph) -> tuple[Array, Array]:
        bare = without_references(graph, [self.model.references])
        outputs = self.model.run(graph, "terms")
        said = predicted_labels(outputs, graph, [self.label])[self.label]
        error = np.asarray(said, np.float64) - bare.labels.values[self.label]  # type: ignore[union-attr]
        known = np.isfinite(error.reshape(len(error), -1)).all(axis=1)
        known &= graph.molecule_mask
        apart = np.asarray(self.programs.run(graph, "terms")["deviations"], np.float64)
        # The last head of the probe is nothing, from which the others are told.
        atoms = (apart - apart[:, -1:])[:, :-1, self.column]
        if self.label == "dipole":
            atoms = atoms[:, None] * np.asarray(graph.positions)[:, :, None]
        sums = np.zeros((len(known), *atoms.shape[1:]))
        np.add.at(sums, graph.molecule_index, atoms)
        return sums[known].reshape(-1, atoms.shape[-1]), error[known].reshape(-1)
