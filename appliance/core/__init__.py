"""Vocabulary and ground: records, digests, errors, settings, stores, audit log.

Imports nothing of ours. Everything else may import this.
"""
