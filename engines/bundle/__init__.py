"""The bundle: its manifest, its files, and how they are written."""
