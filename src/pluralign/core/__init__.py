"""Floor 0: errors that name place and mend, atomic files, run directories, fingerprints, progress."""
