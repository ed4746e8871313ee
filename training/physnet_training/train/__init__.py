"""From a recipe and a packed dataset to an evaluated model."""
