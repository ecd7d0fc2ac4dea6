"""How much each principal may, and all of them together: on all gateways that share a store."""
