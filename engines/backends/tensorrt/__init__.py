"""TensorRT and TensorRT-RTX: one code path over the API that both share."""
