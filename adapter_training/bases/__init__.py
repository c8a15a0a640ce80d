"""Making a base registrable: fetching it, converting it.

The registry itself is in appliance/engine.
"""
