"""A fault becomes a reproduction: the smallest piece of a graph that fails alone, in files that can be sent away."""

from converters.reproductions.reproducing import Unreproducible, reproduce

__all__ = ["Unreproducible", "reproduce"]
