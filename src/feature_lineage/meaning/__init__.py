"""What a feature fires on."""
