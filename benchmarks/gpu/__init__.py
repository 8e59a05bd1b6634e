"""The parts of ``benchmarks/gpu_check.py``: what it measures, one kind of row a file."""
