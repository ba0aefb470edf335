"""Inputs -> score."""
