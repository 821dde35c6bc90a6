"""Towers that see whole pictures with the trunk of a PS3 tower: what PS3 is compared with."""
