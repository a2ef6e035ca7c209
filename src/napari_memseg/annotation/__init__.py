"""What a person says about an image, and never losing a word of it."""
