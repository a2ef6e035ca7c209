"""How good labels are, computed block by block."""
