"""The study as its YAML file describes it."""
