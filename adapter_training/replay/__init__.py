"""Replayed prompts: what the base could do before, so that it can still do it afterwards."""
