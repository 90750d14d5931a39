"""Mending, and freeing what is not needed."""
