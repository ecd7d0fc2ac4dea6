"""The edge that FastAPI is: routes and the WebSocket endpoint."""
