"""Other drivers, behind the same socket: installed by `make bench-peers` alone."""
