"""Engines that people segment large volumes with today, and the floor under all of them.

Each takes the same network over the same volume with tiles of the same size, the way its
own users do, and leaves one byte of class per voxel. ``run.py`` does one of them in a
process of its own; ``inference.py`` beside this folder asks for them in rounds.
"""
