"""Bills of materials in CycloneDX 1.6: of a bundle, and of what is installed."""
