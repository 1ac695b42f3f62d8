"""Layer 3: texts to numbers: prompt trees, log-probabilities, reward models, features, caches."""
