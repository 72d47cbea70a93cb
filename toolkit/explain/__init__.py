"""What a student is made of, layer by layer: work, time, error, sensitivity, and what compression changed."""
