"""Features' activations."""
