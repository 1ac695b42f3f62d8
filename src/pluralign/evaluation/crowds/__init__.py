"""Predicted label distributions against a crowd's votes."""
