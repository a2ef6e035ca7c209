"""Segment volumes larger than memory; see README.md."""
