"""Bundles that somebody spoilt: what becomes of them, each in a process of its own."""
