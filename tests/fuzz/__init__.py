"""What nobody thought of: random clients on real sockets, and what must hold whatever they say."""
