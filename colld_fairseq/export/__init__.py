"""Trained students as graphs of ONNX, in the folders that clients on devices open."""
