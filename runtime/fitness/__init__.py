"""Is this image fit to be judged, and is it of the kind that the network knows."""
