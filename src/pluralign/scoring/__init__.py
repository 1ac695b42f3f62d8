"""Floor 3: texts to numbers with a transformer, or without one: reward models, features, caches."""
