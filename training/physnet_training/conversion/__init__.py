"""From sources to a packed dataset: read → check → write, several sources at a time."""
