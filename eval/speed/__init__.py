"""Seconds and memory of the tower and of the projector stage, next to a peer where one is given."""
