"""Export for TensorFlow Serving."""
