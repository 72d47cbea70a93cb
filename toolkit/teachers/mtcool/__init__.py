"""After MT-CooL: sub-models that learn in turn, each from its own features and from those of the others."""
