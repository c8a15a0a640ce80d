"""Doors for files that other systems wrote: each format maps its records to drafts of turns."""
