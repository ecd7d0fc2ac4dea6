"""Driving Google Speech-to-Text, both API versions, leg after leg."""
