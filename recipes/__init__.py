"""What people run: one straight-line story per stage, and the YAMLs that tell which values it has."""
