"""Two slots of bundles on a device: install, switch, return."""
