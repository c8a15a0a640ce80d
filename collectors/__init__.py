"""Collectors: import files, assembly of turns into trajectories, the lake, datasets."""
