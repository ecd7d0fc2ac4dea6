"""The specification, executable: one file for each room, and one for each promise that crosses rooms."""

import app  # noqa: F401 - before anything loads gRPC
