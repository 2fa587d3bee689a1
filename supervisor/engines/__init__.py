"""Where units run, and the fleet that knows what state each of them should be in."""
