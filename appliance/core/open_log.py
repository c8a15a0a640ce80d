"""Which event log there is: the settings' word, turned into one of the two."""

from appliance.core.embedded_log import EmbeddedLog
from appliance.core.event_log import EventLog
from appliance.core.home import Home
from appliance.core.settings import Settings


def open_log(home: Home, settings: Settings) -> EventLog:
    """The event log that the settings name."""
    if settings.log.kind == "kafka":
        from appliance.core.kafka_log import KafkaLog  # its client takes a while to import

        return KafkaLog(settings.log.bootstrap)
    return EmbeddedLog(home.log, segment_bytes=settings.log.segment_mib << 20)
