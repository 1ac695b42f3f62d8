"""Floor 6: what a command or a Python call does as a whole, one file each."""
