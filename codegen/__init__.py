"""Programs that write committed code from other code."""
