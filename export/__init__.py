"""From a trained network to ONNX, OpenVINO and a bundle."""
