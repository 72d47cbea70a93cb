"""What each device can do: a typed profile, and one YAML file a device."""
