"""What computes a classifier: PyTorch, ONNX Runtime or OpenVINO."""
