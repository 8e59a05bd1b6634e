"""Rewrites of networks as ``torch.fx`` graphs. What a rewrite does not understand it refuses, with the reason."""
