"""Tables of logged data: their files, the roles of their columns, and their transitions."""
