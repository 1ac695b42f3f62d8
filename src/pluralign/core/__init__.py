"""Layer 0: errors that name the place and the fix, atomic files, run folders, fingerprints, progress."""
