"""What persists along the edges of a lineage."""
