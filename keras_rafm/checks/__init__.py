"""Checks of arguments, tensors and model inputs."""
