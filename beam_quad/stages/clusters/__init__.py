"""Centers, and the cluster of each row."""
