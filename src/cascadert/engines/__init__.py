"""Targets and engine builds: a bundle becomes a deployment."""
