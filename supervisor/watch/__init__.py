"""Keeps units up and keeps the evidence of why they fell."""
