"""Checks of arguments, tensors and model inputs; shared constants; optional packages."""
