"""Where cells run: one small interface, several places."""
