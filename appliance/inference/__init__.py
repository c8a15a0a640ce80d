"""The embedded engine: Llama-type models in torch, many LoRA versions in one batch, one process.

A process of its own behind a private socket (`python -m appliance.inference serve`); its clients
are in appliance/engine.
"""
