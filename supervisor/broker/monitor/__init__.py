"""The monitor: what is on the broker, looked at all along, cheaply, and without ever taking unknown for gone."""
