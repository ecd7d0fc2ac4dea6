"""From settings to the parts: what main.py puts together. Each function takes the settings and what it stands on."""
