"""Layer 2: metrics as functions of arrays."""
