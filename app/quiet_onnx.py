"""ONNX Runtime without its telemetry: left alone it keeps an id of this machine on the disk, and tells its maker over
HTTPS what is loaded and run. It looks for this variable as it is imported: who needs it imports this first.
"""

import os

os.putenv("ORT_DISABLE_TELEMETRY", "1")
