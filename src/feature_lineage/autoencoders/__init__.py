"""Sparse autoencoders: their saved form, training and evaluation."""
