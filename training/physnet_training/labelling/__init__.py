"""Labels from ASE calculators: methods, sampling, jobs, journal."""
