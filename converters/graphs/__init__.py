"""ONNX graphs: made from PyTorch, named for people, sharing one file of weights."""
