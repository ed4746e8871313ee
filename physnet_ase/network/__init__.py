"""The learned part: flax linen modules that map a Graph to per-atom outputs."""
