"""Curation: from sealed trajectories to a sealed dataset, every exclusion with its reason."""
