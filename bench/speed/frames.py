"""What the load generator and the scripted upstream tell each other through a gateway, whoever made it.

Audio: each frame begins with when it was said, by whom, and its number. Captions: each has when it was said in its
text. Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import re
import struct
import time

HEAD = struct.Struct("<QII")
"""When, the session, the frame's number, counted from 0."""
_STAMP = re.compile(rb"@(\d{19})@")


def now() -> int:
    return time.monotonic_ns()


def caption_stamp() -> str:
    """For a caption's text."""
    return f"@{now():019d}@"


def stamps_of(caption: bytes) -> list[int]:
    """When what stands in it was said, whatever is around it."""
    return [int(digits) for digits in _STAMP.findall(caption)]
