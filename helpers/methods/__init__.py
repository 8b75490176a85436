"""Published methods, one in a file."""
