"""What the command ``physnet-ase`` is made of: options, tables, structure files."""
