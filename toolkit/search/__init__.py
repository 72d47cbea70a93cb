"""The search for the fastest student that passes, under a device's budget."""
