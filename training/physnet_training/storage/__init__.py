"""A packed dataset as files: layout, checksums, locks, safe writes."""
