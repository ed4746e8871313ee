"""Where molecules come from: readers of every file format, keys and units."""
