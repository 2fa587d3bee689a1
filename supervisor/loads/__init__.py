"""Uses the system continuously and counts how that went."""
