"""Foveola: networks for medical images, compressed for the device and proved against their teacher."""

__version__ = "0.1.0"
