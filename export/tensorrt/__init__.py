"""The build kit for TensorRT: typed graphs, the static rules, the plan of the build."""
