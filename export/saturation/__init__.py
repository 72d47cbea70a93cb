"""What processors without VNNI would clip: the emulation, the proof, and the lint."""
