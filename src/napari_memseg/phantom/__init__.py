"""A synthetic fly under microCT, of any size, with exact labels."""
