"""`aggregate`: one policy for all types."""
