"""`train`: one YAML file to a trained model."""
