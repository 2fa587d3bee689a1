"""soakd: a soak and chaos supervisor for NATS-based systems."""

__version__ = "0.1.0"
