"""Live captions for phone apps: a WebSocket gateway to Google Speech-to-Text."""
