"""Who is asking: API keys, signed tokens, one-time tokens. One check behind them all: authenticator.py."""
