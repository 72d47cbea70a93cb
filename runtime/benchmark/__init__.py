"""What a bundle costs on this machine: times, memory, energy, and the record of them."""
