"""After COMPRER: several modalities of the same people, and the losses that bring them together."""
