"""ALAW (ITU-T G.711) to LINEAR16, exactly. The standard library's audioop did this until Python 3.12."""


def _decode(code: int) -> int:
    """One ALAW byte as a signed 16-bit sample (G.711, table 1a)."""
    code ^= 0x55
    exponent, mantissa = (code & 0x70) >> 4, code & 0x0F
    magnitude = (mantissa << 4) + 8 if exponent == 0 else ((mantissa << 4) + 0x108) << (exponent - 1)
    return magnitude if code & 0x80 else -magnitude


_SAMPLES = [_decode(code).to_bytes(2, "little", signed=True) for code in range(256)]
_LOW = bytes(sample[0] for sample in _SAMPLES)
_HIGH = bytes(sample[1] for sample in _SAMPLES)


def alaw_to_linear16(chunk: bytes) -> bytes:
    """One byte a sample in, two bytes (little-endian) a sample out."""
    linear = bytearray(2 * len(chunk))
    linear[0::2] = chunk.translate(_LOW)
    linear[1::2] = chunk.translate(_HIGH)
    return bytes(linear)
