"""The terms with formulas: they act on per-atom quantities and pair distances."""
