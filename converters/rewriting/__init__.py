"""Rewrites of a traced network, each from a value to a value. What a rewrite does not understand it refuses by name.

The way from a network to a trunk: :func:`converters.analysis.network.traced_network`, then
:func:`converters.rewriting.loops.looped_from_network` (with ``windows`` and ``shrinks``), then
:func:`converters.rewriting.lowerings.lowered`, then :func:`converters.rewriting.proof.prove_phases`.
"""
