"""The command `transcribe`: what a person types, and what the terminal shows."""
