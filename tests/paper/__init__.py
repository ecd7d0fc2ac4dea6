"""A session's whole world on paper, without I/O: nothing in it happens by itself. For tests/test_session_machine.py."""
