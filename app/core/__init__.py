"""The quiet core: rules without I/O. No asyncio, no clock, no logging, no environment."""
