"""Evaluation: an adapter in, a scorecard out. Not the room that made the adapter.

Champion and candidate answer the same items through the engine's port; answers are judged outside
the box; what the numbers mean for a release is decided in `policies`.
"""
