"""Where volumes come from and where labels go."""
