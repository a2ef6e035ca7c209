"""What a user does: one generator of progress per job."""
