"""Teachers that come from elsewhere."""
