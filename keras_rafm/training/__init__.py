"""The bi-level training step."""
