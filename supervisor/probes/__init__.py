"""Looks at the system."""
