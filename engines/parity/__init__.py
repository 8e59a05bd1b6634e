"""How far two results are apart, and whether that is within tolerance. Plain numpy, for the vehicle too."""
