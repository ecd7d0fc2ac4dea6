"""A local Google Speech-to-Text, streaming: the same gRPC services with a real recognizer inside."""
