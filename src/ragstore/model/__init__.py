"""Pure values: what the words of ragstore mean, with no input or output."""
