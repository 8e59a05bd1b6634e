"""A bundle's schedule as one standard ONNX graph: frame in, labels out, in bounded memory on any runtime.

``prepare.onnx``, then an ONNX ``Loop`` over sub-batches with the trunk as its body, then the merge. What a session does
step by step around its graphs is inside, so a host that takes one network needs nothing else.

- ``forms.py``: what the file takes and gives.
- ``walk.py``: which phases each iteration computes.
- ``inputs.py``, ``trunks.py``, ``results.py``: the three parts of the graph; ``assembling.py`` puts them together.
- ``hosts.py``: the other side of the interface, in numpy: what a host feeds and reads.
- ``proving.py``: the written bytes in ONNX Runtime, against a session.
- ``packing.py``: :func:`converters.pack`.
"""
