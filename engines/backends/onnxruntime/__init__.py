"""ONNX Runtime: the embedded default on a CPU, the reference for graphs, a second opinion on a GPU."""
