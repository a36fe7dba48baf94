"""Corpora, tokenizers and tokens."""
