"""Writing and locking files."""
