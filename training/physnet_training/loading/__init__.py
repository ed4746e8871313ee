"""From a packed dataset to batches: order, gathering, padding, prefetching."""
