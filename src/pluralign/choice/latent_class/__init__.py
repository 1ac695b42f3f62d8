"""Latent-class Plackett-Luce: types of annotators from judgments, how many there are, and whether the data show it."""
