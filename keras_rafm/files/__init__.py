"""Writing files atomically and locking them. Nothing here needs NumPy or TensorFlow."""
