"""TensorRT on the device: the engine is built from the bundle's kit, kept, and run."""
