"""Edit tools: each looks at what is shown in a box, and returns what to paint there as one step."""
