"""Explanations by a language model, and their scores."""
