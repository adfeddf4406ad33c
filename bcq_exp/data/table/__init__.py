"""Tables of logged data: their files, what their columns are, and the transitions they become."""
