"""Training by the bi-level update: its lower losses, and how `fit` reads epochs."""
