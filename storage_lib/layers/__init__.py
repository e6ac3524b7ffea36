"""Layers: backends around a backend. factory.py says in which order."""
