"""From sources to a packed dataset: pieces, policies, processes, assembly."""
