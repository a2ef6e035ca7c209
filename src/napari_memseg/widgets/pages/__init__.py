"""The pages of the dock, one for each step of the loop."""
