"""What an export can be: a module for each format."""
