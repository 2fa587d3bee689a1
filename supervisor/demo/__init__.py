"""A small real system to soak, run as local processes."""
