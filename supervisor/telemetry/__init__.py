"""What a person or a monitoring system sees: logs, metrics, console, service manager."""
