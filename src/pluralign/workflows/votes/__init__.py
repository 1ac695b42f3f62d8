"""`votes update` and `votes simulate`."""
