"""Tiles down, labels up: runs that survive and stay within memory."""
