"""On the device: sources, sinks, overlays and the run loop. Imports neither torch nor onnx."""
