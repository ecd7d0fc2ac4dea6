"""Live captions for phone apps: a WebSocket gateway to Google Speech-to-Text."""

import os

# gRPC's handlers around fork crash every fiftieth child before it runs its own program, which is all that ours do. It
# looks for this variable as it is loaded.
os.putenv("GRPC_ENABLE_FORK_SUPPORT", "false")
