"""Declared TCP links that soakd keeps between clients and a server, in a process of their own."""
