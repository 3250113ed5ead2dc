"""PyTorch networks to ONNX graphs: models, stages, the exporter, passes and lowerings. Needs the extra `export`."""
