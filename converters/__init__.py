"""From PyTorch to bundles: pooling layers, networks, rewriting, export and verification."""
