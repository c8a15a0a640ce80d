"""The only door into the event log: label, redact, key, append."""

from appliance.ingest.ingest import Ingest, IngestCounts

__all__ = ["Ingest", "IngestCounts"]
