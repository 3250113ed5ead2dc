"""Run compiled stages: devices, executables, selection and the pipeline. Imports neither torch nor onnx."""
