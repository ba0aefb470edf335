"""Samples in memory."""
