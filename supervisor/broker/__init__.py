"""All that speaks NATS."""
